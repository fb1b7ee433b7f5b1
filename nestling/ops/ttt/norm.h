// The layer norm and the GELU of the inner model, with tokens in lanes.
#pragma once
#include "ops/momentum_gated_delta_rule/lanes.h"

// Every vector of lanes: f(row, place of its first value, first lane)
template <class T, int N, class F>
inline void sweep(long rows, const F& f) {
  for (long r = 0; r < rows; ++r)
#pragma GCC unroll 4
    for (int t = 0; t < N; t += Vector<T>::lanes) f(r, r * N + t, t);
}

// Normalise x to zero mean and unit variance along the rows, in place; inverse[t] = 1 / deviation
template <int N, class T>
inline void normalise(T* x, T* inverse, T epsilon, long rows) {
  typedef typename Vector<T>::type V;
  for (int t = 0; t < N; t += Vector<T>::lanes) {
    V mean = {}, square = {};
    for (long r = 0; r < rows; ++r) mean += load(x + r * N + t);
    mean /= T(rows);
    for (long r = 0; r < rows; ++r) {
      const V centred = load(x + r * N + t) - mean;
      square += centred * centred;
    }
    for (int i = 0; i < Vector<T>::lanes; ++i)
      inverse[t + i] = 1 / std::sqrt(square[i] / rows + epsilon);
    const V factor = load(inverse + t);
    for (long r = 0; r < rows; ++r) store(x + r * N + t, V(factor * (load(x + r * N + t) - mean)));
  }
}

// out = inverse (x - mean(x) - (mean(x n) + extra) n): through the norm whose result is n.
// along[t] = mean(x n); extra may be null; out may be x.
template <int N, class T>
inline void through_norm(T* out, T* along, const T* x, const T* n, const T* inverse,
                         const T* extra, long rows) {
  typedef typename Vector<T>::type V;
  for (int t = 0; t < N; t += Vector<T>::lanes) {
    V mean = {}, dot = {};
    for (long r = 0; r < rows; ++r) {
      const V value = load(x + r * N + t);
      mean += value;
      dot += value * load(n + r * N + t);
    }
    mean /= T(rows), dot /= T(rows);
    store(along + t, dot);
    if (extra) dot += load(extra + t);
    const V factor = load(inverse + t);
    for (long r = 0; r < rows; ++r)
      store(out + r * N + t, V(factor * (load(x + r * N + t) - mean - dot * load(n + r * N + t))));
  }
}

// out[r] = out[r] + sum over tokens of x[r, t]
template <int N, class T>
inline void add_sums(T* out, const T* x, long rows) {
  typedef typename Vector<T>::type V;
  for (long r = 0; r < rows; ++r) {
    V sum = load(x + r * N);
    for (int t = Vector<T>::lanes; t < N; t += Vector<T>::lanes) sum += load(x + r * N + t);
    out[r] += sum_of<T>(sum);
  }
}

// GELU in the tanh form, z sigmoid(2 s) with s = sqrt(2 / pi) (z + 0.044715 z^3), its slope and
// the slope of that; slope and curvature may be null.
template <class T>
inline void gelu_tanh(T* value, T* slope, T* curvature, const T* z, long count) {
  typedef typename Vector<T>::type V;
  constexpr T ONE = T(1.5957691216057308), CUBIC = T(0.044715);  // 2 sqrt(2 / pi)
  for (long i = 0; i < count; i += Vector<T>::lanes) {
    const V x = load(z + i), square = x * x;
    const V p = sigmoid_of(V(ONE * x * (1 + CUBIC * square)));
    store(value + i, V(x * p));
    if (!slope) continue;
    const V inner = ONE * (1 + 3 * CUBIC * square);  // slope of 2 s
    const V spread = p * (1 - p), of_p = inner * spread;
    store(slope + i, V(p + x * of_p));
    if (!curvature) continue;
    const V bend = 6 * ONE * CUBIC * x * spread + inner * (1 - 2 * p) * of_p;
    store(curvature + i, V(2 * of_p + x * bend));
  }
}

// Rotate pairs of neighbouring rows by the angles [rows / 2][N]; sign -1 rotates them back.
template <int N, class T>
inline void rotate(T* x, const T* cos, const T* sin, T sign, long rows) {
  sweep<T, N>(rows / 2, [&](long i, long j, int t) {
    T *first = x + 2 * i * N + t, *second = first + N;
    const auto even = load(first), odd = load(second), c = load(cos + j), s = sign * load(sin + j);
    store(first, even * c - odd * s);
    store(second, odd * c + even * s);
  });
}
