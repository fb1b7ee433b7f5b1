// Products of the gates of one segment, and their gradients.
#pragma once
#include "lanes.h"

// A(t, s) and Theta(t, s) are products of alpha and mu over s < i <= t, K = A Theta; a, c, theta
// are those from the start of the segment. Matrices are [s][t] with t in the lanes; "before"
// means one token earlier (zero at the first, but a = 1).
template <class T, int N>
struct Gates {
  T A[N * N], K[N * N], A_before[N * N], K_before[N * N], Theta[N * N], A_tokens[N * N];
  T a[N], c[N], a_before[N], c_before[N], theta[N];
  T A_end[N], K_end[N], Theta_end[N], a_end, c_end, theta_end;  // at the last token
  int count;

  static void products(T* out, T* start, const T* gate) {
    T from_start = 1;
    for (int t = 0; t < N; ++t) start[t] = from_start *= gate[t];
    for (int s = 0; s < N; ++s) {
      for (int t = 0; t < s; ++t) out[s * N + t] = 0;
      T value = out[s * N + s] = 1;
      for (int t = s + 1; t < N; ++t) out[s * N + t] = value *= gate[t];
    }
  }

  static void shift(T* out, const T* x, T first) {
    out[0] = first;
    std::memcpy(out + 1, x, sizeof(T) * (N - 1));
  }

  // alpha and mu are one from token `tokens` on
  void set(const T* alpha, const T* mu, int tokens) {
    count = tokens;
    products(A, a, alpha);
    products(Theta, theta, mu);
    for (int s = 0; s < N; ++s)
      for (int t = count; t < N; ++t) Theta[s * N + t] = 0;
    for (int t = count; t < N; ++t) theta[t] = 0;
    product<false, N>(K, Theta, N, 1, A, N, N);
    product<false, N>(c, theta, 0, 1, A, 1, N);
    transpose(A_tokens, static_cast<long>(N), A, static_cast<long>(N), N, N);
    for (int s = 0; s < N; ++s) {
      shift(A_before + s * N, A + s * N, 0);
      shift(K_before + s * N, K + s * N, 0);
      A_end[s] = A[s * N + count - 1];
      K_end[s] = K[s * N + count - 1];
      Theta_end[s] = Theta[s * N + count - 1];
    }
    shift(a_before, a, 1);
    shift(c_before, c, 0);
    a_end = a[count - 1], c_end = c[count - 1], theta_end = theta[count - 1];
  }
};

template <class T, int N>
struct GateGradients {
  T A[N * N], K[N * N], A_before[N * N], K_before[N * N];
  T a[N], c[N], a_before[N], c_before[N];
  T A_end[N], K_end[N], Theta_end[N], a_end, c_end, theta_end;

  void clear() { std::memset(this, 0, sizeof *this); }

  static void unshift(T* to, const T* from) {
    for (int t = 1; t < N; ++t) to[t - 1] += from[t];
  }

  // the gradients of the gates, from the gradients d_start and d of their products
  static void gate_gradient(T* out, const T* d, const T* d_start, const T* matrix,
                            const T* matrix_tokens, const T* start) {
    T x[N * N], x_start[N];
    product<false, N>(x, d, N, 1, matrix_tokens, N, N);
    product<false, N>(x_start, d_start, 0, 1, matrix_tokens, 1, N);
    for (int t = 0; t < N; ++t) out[t] = x_start[t] * (t ? start[t - 1] : T(1));
    for (int s = 0; s < N; ++s)
      for (int t = s + 1; t < N; ++t) out[t] += x[s * N + t] * matrix[s * N + t - 1];
  }

  void finish(T* d_alpha, T* d_mu, const Gates<T, N>& g) {
    const int last = g.count - 1;
    for (int s = 0; s < N; ++s) {
      unshift(A + s * N, A_before + s * N);
      unshift(K + s * N, K_before + s * N);
      A[s * N + last] += A_end[s];
      K[s * N + last] += K_end[s];
    }
    unshift(a, a_before);
    unshift(c, c_before);
    a[last] += a_end, c[last] += c_end;
    T d_theta[N], d_Theta[N * N], Theta_tokens[N * N];
    product<false, N>(d_Theta, K, N, 1, g.A_tokens, N, N);
    product<false, N>(d_theta, c, 0, 1, g.A_tokens, 1, N);
    product<true, N>(A, g.Theta, 1, N, K, N, N);
    for (int r = 0; r < N; ++r) {
      d_Theta[r * N + last] += Theta_end[r];
      for (int t = 0; t < N; ++t) A[r * N + t] += g.theta[r] * c[t];
    }
    d_theta[last] += theta_end;
    for (int s = 0; s < N; ++s)
      for (int t = g.count; t < N; ++t) d_Theta[s * N + t] = 0;
    for (int t = g.count; t < N; ++t) d_theta[t] = 0;
    transpose(Theta_tokens, static_cast<long>(N), g.Theta, static_cast<long>(N), N, N);
    gate_gradient(d_alpha, A, a, g.A, g.A_tokens, g.a);
    gate_gradient(d_mu, d_Theta, d_theta, g.Theta, Theta_tokens, g.theta);
  }
};
