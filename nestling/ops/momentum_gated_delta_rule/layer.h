// One layer of one memory over one segment: the erased values, the reads, and the final state.
#pragma once
#include "gates.h"

// V rows, K columns; u is the layer's input, beta its erase strength, w the write. With
// Gamma = u u^T the erased reads E solve
//   (I + (A_before * Gamma) diag(beta)) E = a_before (u W^T) + c_before (u S^T) + (K_before * Gamma) w
template <class T, int N>
struct Layer {
  long rows, columns;
  const T *weight, *momentum;                // [V][K], at the start of the segment
  const T *u, *u_tokens, *beta;              // lanes [K], tokens [N][K], [N]
  T *w, *erased, *gone;                      // lanes [V]: the write, E, and beta E
  T *weight_read, *momentum_read;            // lanes [V]: u W^T and u S^T
  T *gram, *inverse, *inverse_tokens, *pushed;  // [s][t]; inverse_tokens [t][s]; K_before * Gamma

  void set_gram() {
    product<false, N>(gram, u, 1, N, u, N, columns);
  }

  // X = (I + M)^-1 by X(t, s) = (t == s) - sum_{r > s} X(t, r) M(r, s)
  void set_inverse(const Gates<T, N>& g) {
    for (int s = N - 1; s >= 0; --s) {
      T* row = inverse + s * N;
      T sum[N] = {};
      for (int r = s + 1; r < g.count; ++r) {
        const T m = g.A_before[s * N + r] * gram[s * N + r] * beta[s];
        for (int t = 0; t < N; ++t) sum[t] -= m * inverse[r * N + t];
      }
      sum[s] += 1;
      std::memcpy(row, sum, sizeof sum);
    }
  }

  void erase(const Gates<T, N>& g, T* seen) {
    product<false, N>(weight_read, weight, columns, 1, u, rows, columns);
    product<false, N>(momentum_read, momentum, columns, 1, u, rows, columns);
    for (int i = 0; i < N * N; ++i) pushed[i] = g.K_before[i] * gram[i];
    for (long r = 0; r < rows; ++r)
      for (int t = 0; t < N; ++t) {
        const long i = r * N + t;
        seen[i] = g.a_before[t] * weight_read[i] + g.c_before[t] * momentum_read[i];
      }
    product<true, N>(seen, w, N, 1, pushed, rows, g.count);
    product<false, N>(erased, seen, N, 1, inverse, rows, g.count);
    scaled<false, N>(gone, beta, erased, rows);
  }

  // The weight and momentum after the last token; space holds rows * N values
  void close(const Gates<T, N>& g, T* new_weight, T* new_momentum, T* space) const {
    for (long r = 0; r < rows; ++r)
      for (int t = 0; t < N; ++t)
        space[r * N + t] = g.K_end[t] * w[r * N + t] - g.A_end[t] * gone[r * N + t];
    outer<N>(new_weight, weight, g.a_end, momentum, g.c_end, space, u_tokens, rows, columns,
             g.count);
    scaled<false, N>(space, g.Theta_end, w, rows);
    outer<N>(new_momentum, momentum, g.theta_end, static_cast<const T*>(nullptr), T(0), space,
             u_tokens, rows, columns, g.count);
  }
};

// A read of a layer after every token, at the queries x; fixed: the weight is a deviation from it.
template <class T, int N>
struct Read {
  const T *x, *fixed;                // lanes [K]; [V][K]
  T *weight_read, *momentum_read;    // lanes [V]
  T *scores, *writes, *erasures;     // [s][t]: x u^T, K * scores, A * scores

  void run(const Layer<T, N>& layer, const Gates<T, N>& g, T* y) {
    const long rows = layer.rows, columns = layer.columns;
    product<false, N>(weight_read, layer.weight, columns, 1, x, rows, columns);
    product<false, N>(momentum_read, layer.momentum, columns, 1, x, rows, columns);
    product<false, N>(y, fixed, columns, 1, x, rows, columns);
    product<false, N>(scores, layer.u, 1, N, x, N, columns);
    for (int i = 0; i < N * N; ++i) {
      writes[i] = g.K[i] * scores[i];
      erasures[i] = -g.A[i] * scores[i];
    }
    for (long r = 0; r < rows; ++r)
      for (int t = 0; t < N; ++t) {
        const long i = r * N + t;
        y[i] += g.a[t] * weight_read[i] + g.c[t] * momentum_read[i];
      }
    product<true, N>(y, layer.w, N, 1, writes, rows, g.count);
    product<true, N>(y, layer.gone, N, 1, erasures, rows, g.count);
  }
};

// Gradients of one layer; the adjoints of weight and momentum are propagated in place, from the end
// of the segment to its start.
template <class T, int N>
struct LayerGradient {
  T *weight, *momentum;           // [V][K]
  T *u, *w, *gone;                // lanes, added to (w and gone: set by close)
  T *beta;                        // [N], set by erase
  T *gram;                        // [s][t], added to
  T *space, *space2, *tokens;     // lanes [max(V, K)] twice; [N][N]

  void close(const Layer<T, N>& layer, const Gates<T, N>& g, GateGradients<T, N>& d) {
    const long rows = layer.rows, columns = layer.columns, size = rows * columns;
    for (long r = 0; r < rows; ++r)
      for (int t = 0; t < N; ++t)
        space[r * N + t] = g.K_end[t] * layer.w[r * N + t] - g.A_end[t] * layer.gone[r * N + t];
    product<true, N>(u, weight, 1, columns, space, columns, rows);
    scaled<false, N>(space, g.Theta_end, layer.w, rows);
    product<true, N>(u, momentum, 1, columns, space, columns, rows);
    product<false, N>(space, weight, columns, 1, layer.u, rows, columns);     // of delta
    product<false, N>(space2, momentum, columns, 1, layer.u, rows, columns);  // of pushed
    T write[N] = {}, erase[N] = {}, push[N] = {};
    for (long r = 0; r < rows; ++r)
      for (int t = 0; t < N; ++t) {
        const long i = r * N + t;
        w[i] = g.K_end[t] * space[i] + g.Theta_end[t] * space2[i];
        gone[i] = -g.A_end[t] * space[i];
        write[t] += space[i] * layer.w[i];
        push[t] += space2[i] * layer.w[i];
        erase[t] += space[i] * layer.gone[i];
      }
    for (int t = 0; t < N; ++t) {
      d.K_end[t] += write[t];
      d.A_end[t] -= erase[t];
      d.Theta_end[t] += push[t];
    }
    d.a_end += inner(weight, layer.weight, size);
    d.c_end += inner(weight, layer.momentum, size);
    d.theta_end += inner(momentum, layer.momentum, size);
    for (long i = 0; i < size; ++i) {
      const T end = weight[i];
      momentum[i] = g.theta_end * momentum[i] + g.c_end * end;
      weight[i] = g.a_end * end;
    }
  }

  // Gradient of a read: dy is given, dx is set, fixed is added to
  void read(const Layer<T, N>& layer, const Read<T, N>& read, const Gates<T, N>& g,
            GateGradients<T, N>& d, const T* dy, const T* x_tokens, T* dx, T* fixed) {
    const long rows = layer.rows, columns = layer.columns;
    dots<N>(d.a, dy, read.weight_read, rows);
    dots<N>(d.c, dy, read.momentum_read, rows);
    outer_add<N>(fixed, dy, x_tokens, rows, columns, g.count);
    product<false, N>(dx, read.fixed, 1, columns, dy, columns, rows);
    scaled<false, N>(space, g.a, dy, rows);
    outer_add<N>(weight, space, x_tokens, rows, columns, g.count);
    product<true, N>(dx, layer.weight, 1, columns, space, columns, rows);
    scaled<false, N>(space, g.c, dy, rows);
    outer_add<N>(momentum, space, x_tokens, rows, columns, g.count);
    product<true, N>(dx, layer.momentum, 1, columns, space, columns, rows);
    T written[N * N], erased[N * N];
    product<false, N>(written, layer.w, 1, N, dy, N, rows);
    product<false, N>(erased, layer.gone, 1, N, dy, N, rows);
    for (int i = 0; i < N * N; ++i) {
      d.K[i] += read.scores[i] * written[i];
      d.A[i] -= read.scores[i] * erased[i];
      written[i] = g.K[i] * written[i] - g.A[i] * erased[i];  // of the scores
    }
    product<true, N>(dx, layer.u, N, 1, written, columns, N);
    transpose(tokens, static_cast<long>(N), written, static_cast<long>(N), N, N);
    product<true, N>(u, read.x, N, 1, tokens, columns, N);
    transpose(tokens, static_cast<long>(N), read.writes, static_cast<long>(N), N, N);
    product<true, N>(w, dy, N, 1, tokens, rows, N);
    transpose(tokens, static_cast<long>(N), read.erasures, static_cast<long>(N), N, N);
    product<true, N>(gone, dy, N, 1, tokens, rows, N);
  }

  void erase(const Layer<T, N>& layer, const Gates<T, N>& g, GateGradients<T, N>& d) {
    const long rows = layer.rows, columns = layer.columns;
    T* seen = space;
    scaled<false, N>(space2, layer.beta, gone, rows);
    product<false, N>(seen, space2, N, 1, layer.inverse_tokens, rows, g.count);
    T dot[N] = {};
    dots<N>(dot, gone, layer.erased, rows);
    T solved[N * N], written[N * N];
    product<false, N>(solved, layer.erased, 1, N, seen, N, rows);
    product<false, N>(written, layer.w, 1, N, seen, N, rows);
    for (int s = 0; s < N; ++s) {
      T sum = 0;
      for (int t = 0; t < N; ++t) {
        const int i = s * N + t;
        const T of_system = -layer.beta[s] * solved[i];
        sum += g.A_before[i] * layer.gram[i] * solved[i];
        d.A_before[i] += layer.gram[i] * of_system;
        d.K_before[i] += layer.gram[i] * written[i];
        gram[i] += g.A_before[i] * of_system + g.K_before[i] * written[i];
      }
      beta[s] = dot[s] - sum;
    }
    transpose(tokens, static_cast<long>(N), layer.pushed, static_cast<long>(N), N, N);
    product<true, N>(w, seen, N, 1, tokens, rows, N);
    dots<N>(d.a_before, seen, layer.weight_read, rows);
    dots<N>(d.c_before, seen, layer.momentum_read, rows);
    scaled<false, N>(space2, g.a_before, seen, rows);
    product<true, N>(u, layer.weight, 1, columns, space2, columns, rows);
    outer_add<N>(weight, space2, layer.u_tokens, rows, columns, g.count);
    scaled<false, N>(space2, g.c_before, seen, rows);
    product<true, N>(u, layer.momentum, 1, columns, space2, columns, rows);
    outer_add<N>(momentum, space2, layer.u_tokens, rows, columns, g.count);
  }

  void gram_into_input(const Layer<T, N>& layer) {
    transpose(tokens, static_cast<long>(N), gram, static_cast<long>(N), N, N);
    for (int i = 0; i < N * N; ++i) tokens[i] += gram[i];
    product<true, N>(u, layer.u, N, 1, tokens, layer.columns, N);
  }
};
