// Small matrix products on one core, with the tokens of a segment in the lanes of vectors.
//
// An array of lanes is [rows][N]: row r of token t at [r * N + t]. A weight is [rows][columns] as
// in torch. Loops over the fixed length N are vectorised by the compiler.
#pragma once
#include "core/native.h"

// How many rows of so many vectors can be summed in registers, which must also hold the vectors and
// the number that they are multiplied by: a power of two.
constexpr int rows_of(int vectors) {
  int rows = 1;
  while ((2 * rows + 1) * vectors + 1 < REGISTERS) rows *= 2;
  return rows;
}

template <class T, int N, bool ADD, int R>
inline void product_rows(T* __restrict out, const T* __restrict a, long row, long column,
                         const T* __restrict b, long inner) {
  constexpr int L = Vector<T>::lanes, W = N / L;
  static_assert(R == 1 || R * W < REGISTERS, "sums must stay in registers");
  typename Vector<T>::type sum[R][W];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int w = 0; w < W; ++w)
      sum[r][w] = ADD ? load(out + r * N + w * L) : typename Vector<T>::type{};
  for (long i = 0; i < inner; ++i) {
    typename Vector<T>::type right[W];
#pragma GCC unroll 16
    for (int w = 0; w < W; ++w) right[w] = load(b + i * N + w * L);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const T left = a[r * row + i * column];
#pragma GCC unroll 16
      for (int w = 0; w < W; ++w) sum[r][w] += left * right[w];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int w = 0; w < W; ++w) store(out + r * N + w * L, sum[r][w]);
}

// out[r, t] = sum_i a(r, i) b[i, t], added to out if ADD; a(r, i) lies at a[r * row + i * column]
template <bool ADD, int N, class T>
__attribute__((noinline)) void product(T* out, const T* a, long row, long column, const T* b, long rows, long inner) {
  constexpr int L = Vector<T>::lanes, R = std::min(rows_of(N / L), sizeof(T) == 4 ? 8 : 4);
  long r = 0;
  if constexpr (N == L && 2 * R + 2 <= REGISTERS)
    if (row == 1)  // whole cache lines of a
      for (; r + 2 * R <= rows; r += 2 * R)
        product_rows<T, N, ADD, 2 * R>(out + r * N, a + r, 1, column, b, inner);
  for (; r + R <= rows; r += R)
    product_rows<T, N, ADD, R>(out + r * N, a + r * row, row, column, b, inner);
  for (; r < rows; ++r)
    product_rows<T, N, ADD, 1>(out + r * N, a + r * row, row, column, b, inner);
}

template <class T, int N, int R, int W>
inline void outer_block(T* w, const T* w1, T f1, const T* w2, T f2, const T* y, const T* x,
                        long columns, long count) {
  constexpr int L = Vector<T>::lanes;
  static_assert(R == 1 || R * W < REGISTERS, "sums must stay in registers");
  typename Vector<T>::type sum[R][W];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < W; ++c) {
      sum[r][c] = f1 * load(w1 + r * columns + c * L);
      if (w2) sum[r][c] += f2 * load(w2 + r * columns + c * L);
    }
  for (long t = 0; t < count; ++t) {
    typename Vector<T>::type right[W];
#pragma GCC unroll 16
    for (int c = 0; c < W; ++c) right[c] = load(x + t * columns + c * L);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const T left = y[r * N + t];
#pragma GCC unroll 16
      for (int c = 0; c < W; ++c) sum[r][c] += left * right[c];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int c = 0; c < W; ++c) store(w + r * columns + c * L, sum[r][c]);
}

// w[v, k] = f1 w1[v, k] + f2 w2[v, k] + sum_{t < count} y[v, t] x[t, k]; y in lanes, x by token.
// w may be w1 or w2; w2 may be null.
template <int N, class T>
__attribute__((noinline)) void outer(T* w, const T* w1, T f1, const T* w2, T f2, const T* y, const T* x, long rows,
                  long columns, long count) {
  constexpr int L = Vector<T>::lanes, W = BYTES == 64 && sizeof(T) == 4 ? 4 : 2;
  constexpr int R = std::min(rows_of(W), 4);
  for (long r = 0; r < rows; r += R) {
    const long left = std::min<long>(R, rows - r);
    long c = 0;
    auto at = [&](const T* p, long i) { return p ? p + (r + i) * columns + c : nullptr; };
    if (left == R)
      for (; c + W * L <= columns; c += W * L)
        outer_block<T, N, R, W>(w + r * columns + c, at(w1, 0), f1, at(w2, 0), f2, y + r * N,
                                x + c, columns, count);
    const long begin = c;
    for (long i = 0; i < left; ++i) {
      c = begin;
      T* row = w + (r + i) * columns;
      for (; c + L <= columns; c += L)
        outer_block<T, N, 1, 1>(row + c, at(w1, i), f1, at(w2, i), f2, y + (r + i) * N, x + c,
                                columns, count);
      for (; c < columns; ++c) {
        T sum = f1 * *at(w1, i) + (w2 ? f2 * *at(w2, i) : T(0));
        for (long t = 0; t < count; ++t) sum += y[(r + i) * N + t] * x[t * columns + c];
        row[c] = sum;
      }
    }
  }
}

// Add the outer product of y and x to w.
template <int N, class T>
inline void outer_add(T* w, const T* y, const T* x, long rows, long columns, long count) {
  outer<N>(w, w, T(1), static_cast<const T*>(nullptr), T(0), y, x, rows, columns, count);
}

// Transpose a square block with as many rows as a vector has lanes, by swapping halves of halves.
template <class T>
inline void transpose_block(T* __restrict out, long out_stride, const T* __restrict x,
                            long x_stride) {
  constexpr int L = Vector<T>::lanes;
  typename Vector<T>::type rows[L];
  typename Vector<T>::places low, high;
#pragma GCC unroll 16
  for (int r = 0; r < L; ++r) rows[r] = load(x + r * x_stride);
#pragma GCC unroll 4
  for (int step = 1; step < L; step *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      low[i] = i & step ? i - step + L : i;
      high[i] = i & step ? i + L : i + step;
    }
#pragma GCC unroll 16
    for (int r = 0; r < L; ++r) {
      if (r & step) continue;
      const auto above = rows[r], below = rows[r + step];
      rows[r] = __builtin_shuffle(above, below, low);
      rows[r + step] = __builtin_shuffle(above, below, high);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < L; ++r) store(out + r * out_stride, rows[r]);
}

// out[c, r] = x[r, c]
template <class T>
inline void transpose(T* __restrict out, long out_stride, const T* __restrict x, long x_stride,
                      long rows, long columns) {
  constexpr long L = Vector<T>::lanes;
  for (long r0 = 0; r0 < rows; r0 += L)
    for (long c0 = 0; c0 < columns; c0 += L) {
      const long r1 = std::min(r0 + L, rows), c1 = std::min(c0 + L, columns);
      if (r1 - r0 == L && c1 - c0 == L) {
        transpose_block(out + c0 * out_stride + r0, out_stride, x + r0 * x_stride + c0, x_stride);
        continue;
      }
      for (long c = c0; c < c1; ++c)
        for (long r = r0; r < r1; ++r) out[c * out_stride + r] = x[r * x_stride + c];
    }
}

// Tokens [count][width] with a stride into lanes [width][N]; lanes past count are zero.
template <int N, class T>
inline void to_lanes(T* out, const T* x, long stride, long width, long count) {
  if (count < N) std::memset(out, 0, sizeof(T) * width * N);
  transpose(out, static_cast<long>(N), x, stride, count, width);
}

template <int N, class T>
inline void to_tokens(T* out, const T* x, long width) {
  transpose(out, width, x, static_cast<long>(N), width, static_cast<long>(N));
}

// out[t] += sum_r x[r, t] y[r, t]
template <int N, class T>
inline void dots(T* __restrict out, const T* __restrict x, const T* __restrict y, long rows) {
  T sum[N];
  for (int t = 0; t < N; ++t) sum[t] = out[t];
  for (long r = 0; r < rows; ++r)
    for (int t = 0; t < N; ++t) sum[t] += x[r * N + t] * y[r * N + t];
  for (int t = 0; t < N; ++t) out[t] = sum[t];
}

// out[r, t] = f[t] x[r, t], added to out if ADD
template <bool ADD, int N, class T>
inline void scaled(T* out, const T* f, const T* x, long rows) {
  for (long r = 0; r < rows; ++r)
    for (int t = 0; t < N; ++t)
      out[r * N + t] = (ADD ? out[r * N + t] : T(0)) + f[t] * x[r * N + t];
}

template <class T>
inline T inner(const T* x, const T* y, long count) {
  constexpr int L = Vector<T>::lanes;
  typename Vector<T>::type sum[4] = {};
  long i = 0;
  for (; i + 4 * L <= count; i += 4 * L)
    for (int j = 0; j < 4; ++j) sum[j] += load(x + i + j * L) * load(y + i + j * L);
  sum[0] += sum[1] + sum[2] + sum[3];
  T total = 0;
  for (int j = 0; j < L; ++j) total += sum[0][j];
  for (; i < count; ++i) total += x[i] * y[i];
  return total;
}

// Scale every token to unit length; inverse[t] = 1 / max(length, 1e-6), negative where clamped.
template <int N, class T>
inline void unit(T* out, T* inverse, const T* x, long rows) {
  T square[N] = {};
  dots<N>(square, x, x, rows);
  T factor[N];
  for (int t = 0; t < N; ++t) {
    const T length = std::sqrt(square[t]);
    factor[t] = T(1) / std::max(length, T(1e-6));
    inverse[t] = length > T(1e-6) ? factor[t] : -factor[t];
  }
  scaled<false, N>(out, factor, x, rows);
}

// Gradient through unit: dx[r, t], added to dx if ADD, from the gradient dy of y = unit(x).
template <bool ADD, int N, class T>
inline void unit_back(T* dx, const T* dy, const T* y, const T* inverse, long rows) {
  T along[N] = {};
  dots<N>(along, dy, y, rows);
  T factor[N];
  for (int t = 0; t < N; ++t) {
    factor[t] = std::abs(inverse[t]);
    along[t] = inverse[t] > 0 ? along[t] : T(0);
  }
  for (long r = 0; r < rows; ++r)
    for (int t = 0; t < N; ++t) {
      const T value = factor[t] * (dy[r * N + t] - along[t] * y[r * N + t]);
      dx[r * N + t] = (ADD ? dx[r * N + t] : T(0)) + value;
    }
}

// GELU, its slope and the slope of that; slope and curvature may be null.
inline void gelu(double* value, double* slope, double* curvature, const double* z, long count) {
  for (long i = 0; i < count; ++i) {
    const double x = z[i], below = 0.5 * std::erfc(-x * M_SQRT1_2);
    const double density = 0.3989422804014327 * std::exp(-0.5 * x * x);
    value[i] = x * below;
    if (slope) slope[i] = below + x * density;
    if (curvature) curvature[i] = density * (2 - x * x);
  }
}

// The error function by Abramowitz and Stegun 7.1.26 (error 1.5e-7).
inline void gelu(float* value, float* slope, float* curvature, const float* z, long count) {
  typedef Vector<float>::type V;
  for (long i = 0; i < count; i += Vector<float>::lanes) {
    const V x = load(z + i);
    const V e = exp_of_negative(V(-0.5f * x * x));
    const V size = x < 0.0f ? -x : x;
    const V t = 1.0f / (1.0f + 0.2316418882f * size);
    V tail = V{} + 0.5307027147f;
    tail = tail * t - 0.7265760137f;
    tail = tail * t + 0.7107068706f;
    tail = tail * t - 0.142248368f;
    tail = tail * t + 0.1274147965f;
    tail = tail * t * e;
    const V below = x < 0.0f ? tail : 1.0f - tail;
    const V density = 0.3989422804f * e;
    store(value + i, V(x * below));
    if (slope) store(slope + i, V(below + x * density));
    if (curvature) store(curvature + i, V(density * (2.0f - x * x)));
  }
}
