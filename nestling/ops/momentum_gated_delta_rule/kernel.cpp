// The recurrence without momentum over whole rows, forward and backward, on the cores of a CPU.
//
// With P = A * Q K^T and T = A_before * K K^T, what each token adds is n = w - beta E with
//   (I + diag(beta) T) n = w - beta a_before (K W^T),   y = a (Q W^T) + P n
//   W <- a_C W + (A_C n)^T K
// Each worker processes the chunks of one row and head; the state at the start of each is kept.
#include <memory>

#include "gates.h"

namespace {

constexpr int N = 32;  // tokens of a chunk

struct Problem {
  int64_t batch, length, heads, key_heads, keys, values, chunks, threads;
  const void *q, *k, *w, *alpha, *beta;  // [B, T, H, *]; q and k of key_heads; beta may be null
  const void* weight;                    // [B, H, V, K]
  void *y, *weight_out, *kept;           // kept [B, H, chunks, V, K]; null: no backward
  const void *dy, *d_weight_out;         // d_weight_out may be null
  void *dq, *dk, *dw, *d_alpha, *d_beta, *d_weight;  // dq and dk of all heads
};

template <class T>
class Row {
 public:
  explicit Row(const Problem& problem) : p(problem), K(p.keys), V(p.values), size(K * V) {
    const int64_t wide = std::max(K, V) * N;
    memory.resize(13 * wide + 6 * N * N + 2 * size + 64 * 24);
    T* next = memory.data();
    auto take = [&](int64_t count) {
      const auto address = (reinterpret_cast<uintptr_t>(next) + 63) / 64 * 64;
      T* found = reinterpret_cast<T*>(address);
      next = found + count;
      return found;
    };
    for (T** x : {&q, &k, &w, &added, &q_read, &k_read, &y, &q_tokens, &k_tokens, &dq, &dk, &dn,
                  &space})
      *x = take(wide);
    for (T** x : {&scores, &gram, &inverse, &answers, &matrix, &other}) *x = take(N * N);
    state = take(size), d_state = take(size);
  }

  void forward(int64_t batch, int64_t head) {
    at(batch, head);
    std::memcpy(state, static_cast<const T*>(p.weight) + item * size, sizeof(T) * size);
    for (int64_t chunk = 0; chunk < p.chunks; ++chunk) {
      if (p.kept) std::memcpy(kept(chunk), state, sizeof(T) * size);
      compute(chunk);
      transpose(token(static_cast<T*>(p.y), p.heads, V), p.heads * V, y, long(N), V, count);
      scaled<false, N>(space, A_end, added, V);
      outer<N>(state, state, a[count - 1], static_cast<const T*>(nullptr), T(0), space, k_tokens,
               V, K, count);
    }
    std::memcpy(static_cast<T*>(p.weight_out) + item * size, state, sizeof(T) * size);
  }

  void backward(int64_t batch, int64_t head) {
    at(batch, head);
    if (p.d_weight_out)
      std::memcpy(d_state, static_cast<const T*>(p.d_weight_out) + item * size, sizeof(T) * size);
    else
      std::memset(d_state, 0, sizeof(T) * size);
    for (int64_t chunk = p.chunks - 1; chunk >= 0; --chunk) {
      std::memcpy(state, kept(chunk), sizeof(T) * size);
      compute(chunk);
      compute_back();
    }
    std::memcpy(static_cast<T*>(p.d_weight) + item * size, d_state, sizeof(T) * size);
  }

 private:
  void at(int64_t batch, int64_t head) { b = batch, h = head, item = b * p.heads + h; }
  T* kept(int64_t chunk) const {
    return static_cast<T*>(p.kept) + (item * p.chunks + chunk) * size;
  }
  template <class U>
  U* token(U* x, int64_t heads, int64_t width) const {
    return x + ((b * p.length + begin) * heads + (heads == 1 ? 0 : h)) * width;
  }
  // one number per token and head
  template <class U>
  U* rate(U* x) const { return x + (b * p.length + begin) * p.heads + h; }

  // Everything of a chunk except its final state, from the state at its start.
  void compute(int64_t chunk) {
    begin = chunk * N, count = std::min<int64_t>(N, p.length - begin);
    to_lanes<N>(q, token(static_cast<const T*>(p.q), p.key_heads, K), p.key_heads * K, K, count);
    to_lanes<N>(k, token(static_cast<const T*>(p.k), p.key_heads, K), p.key_heads * K, K, count);
    to_lanes<N>(w, token(static_cast<const T*>(p.w), p.heads, V), p.heads * V, V, count);
    to_tokens<N>(k_tokens, k, K);
    for (int t = 0; t < N; ++t) {
      alpha[t] = t < count ? rate(static_cast<const T*>(p.alpha))[t * p.heads] : T(1);
      beta[t] = t < count && p.beta ? rate(static_cast<const T*>(p.beta))[t * p.heads] : T(0);
    }
    Gates<T, N>::products(A, a, alpha);
    Gates<T, N>::shift(a_before, a, 1);
    for (int s = 0; s < N; ++s) {
      A_end[s] = s < count ? A[s * N + count - 1] : T(0);
      Gates<T, N>::shift(A_before + s * N, A + s * N, 0);
    }
    product<false, N>(q_read, state, K, 1, q, V, K);
    product<false, N>(scores, k, 1, N, q, N, K);
    for (int i = 0; i < N * N; ++i) answers[i] = A[i] * scores[i];
    if (p.beta) {
      solve();
    } else {
      std::memcpy(added, w, sizeof(T) * V * N);
    }
    scaled<false, N>(y, a, q_read, V);
    product<true, N>(y, added, N, 1, answers, V, count);
  }

  void solve() {
    product<false, N>(k_read, state, K, 1, k, V, K);
    product<false, N>(gram, k, 1, N, k, N, K);
    for (int s = N - 1; s >= 0; --s) {
      T sum[N] = {};
      for (int r = s + 1; r < count; ++r) {
        const T m = A_before[s * N + r] * gram[s * N + r] * beta[r];
        for (int t = 0; t < N; ++t) sum[t] -= m * inverse[r * N + t];
      }
      sum[s] += 1;
      std::memcpy(inverse + s * N, sum, sizeof sum);
    }
    T factor[N];
    for (int t = 0; t < N; ++t) factor[t] = -beta[t] * a_before[t];
    std::memcpy(space, w, sizeof(T) * V * N);
    scaled<true, N>(space, factor, k_read, V);
    product<false, N>(added, space, N, 1, inverse, V, count);
  }

  void compute_back() {
    T d_a[N] = {}, d_a_before[N] = {}, d_end[N] = {}, d_beta[N] = {}, factor[N];
    T* dy = y;
    to_lanes<N>(dy, token(static_cast<const T*>(p.dy), p.heads, V), p.heads * V, V, count);
    to_tokens<N>(q_tokens, q, K);
    // the state at the end of the chunk
    T d_a_end = inner(d_state, state, size);
    scaled<false, N>(space, A_end, added, V);
    product<false, N>(dk, d_state, 1, K, space, K, V);
    product<false, N>(space, d_state, K, 1, k, V, K);
    dots<N>(d_end, space, added, V);
    scaled<false, N>(dn, A_end, space, V);
    // the reads
    transpose(matrix, long(N), answers, long(N), N, N);
    product<true, N>(dn, dy, N, 1, matrix, V, N);
    product<false, N>(other, added, 1, N, dy, N, V);
    for (int i = 0; i < N * N; ++i) {
      dA[i] = scores[i] * other[i];
      other[i] *= A[i];  // of the scores
    }
    product<false, N>(dq, k, N, 1, other, K, N);
    transpose(matrix, long(N), other, long(N), N, N);
    product<true, N>(dk, q, N, 1, matrix, K, N);
    dots<N>(d_a, dy, q_read, V);
    scaled<false, N>(space, a, dy, V);
    product<true, N>(dq, state, 1, K, space, K, V);
    outer<N>(d_state, d_state, a[count - 1], static_cast<const T*>(nullptr), T(0), space, q_tokens,
             V, K, count);
    T* d_write = dn;
    if (p.beta) {
      d_write = space;
      transpose(matrix, long(N), inverse, long(N), N, N);
      product<false, N>(space, dn, N, 1, matrix, V, count);
      product<false, N>(other, added, 1, N, space, N, V);
      std::memset(matrix, 0, sizeof(T) * N * N);  // of the products of keys
      for (int s = 0; s < N; ++s)
        for (int t = 0; t < N; ++t) {
          const int i = s * N + t;
          d_beta[t] -= A_before[i] * gram[i] * other[i];
          const T of_system = -beta[t] * other[i];
          dA_before[i] = gram[i] * of_system;
          other[i] = A_before[i] * of_system;
        }
      transpose(matrix, long(N), other, long(N), N, N);
      for (int i = 0; i < N * N; ++i) matrix[i] += other[i];
      product<true, N>(dk, k, N, 1, matrix, K, N);
      T along[N] = {};
      dots<N>(along, space, k_read, V);
      for (int t = 0; t < N; ++t) {
        d_beta[t] -= a_before[t] * along[t];
        d_a_before[t] -= beta[t] * along[t];
        factor[t] = -beta[t] * a_before[t];
      }
      scaled<false, N>(dn, factor, space, V);
      product<true, N>(dk, state, 1, K, dn, K, V);
      outer_add<N>(d_state, dn, k_tokens, V, K, count);
      for (int s = 0; s < N; ++s)
        for (int t = 1; t < N; ++t) dA[s * N + t - 1] += dA_before[s * N + t];
      for (int t = 1; t < N; ++t) d_a[t - 1] += d_a_before[t];
    }
    d_a[count - 1] += d_a_end;
    for (int s = 0; s < count; ++s) dA[s * N + count - 1] += d_end[s];
    T d_alpha[N];
    transpose(matrix, long(N), A, long(N), N, N);
    GateGradients<T, N>::gate_gradient(d_alpha, dA, d_a, A, matrix, a);
    give(p.dq, dq, K), give(p.dk, dk, K), give(p.dw, d_write, V);
    for (int t = 0; t < count; ++t) {
      rate(static_cast<T*>(p.d_alpha))[t * p.heads] = d_alpha[t];
      if (p.beta) rate(static_cast<T*>(p.d_beta))[t * p.heads] = d_beta[t];
    }
  }

  void give(void* to, const T* lanes, int64_t width) const {
    transpose(token(static_cast<T*>(to), p.heads, width), p.heads * width, lanes, long(N), width,
              count);
  }

  const Problem& p;
  const int64_t K, V, size;
  int64_t b = 0, h = 0, item = 0, begin = 0, count = 0;
  std::vector<T> memory;
  T *q, *k, *w, *added, *q_read, *k_read, *y, *q_tokens, *k_tokens, *dq, *dk, *dn, *space;
  T *scores, *gram, *inverse, *answers, *matrix, *other, *state, *d_state;
  T alpha[N], beta[N], a[N], a_before[N], A_end[N];
  T A[N * N], A_before[N * N], dA[N * N], dA_before[N * N];
};

template <class T>
void run(const Problem& p, bool backward) {
  std::vector<std::unique_ptr<Row<T>>> rows(p.threads);
  share_out(p.batch * p.heads, p.threads, [&](int64_t item, int64_t worker) {
    if (!rows[worker]) rows[worker] = std::make_unique<Row<T>>(p);
    if (backward) rows[worker]->backward(item / p.heads, item % p.heads);
    else rows[worker]->forward(item / p.heads, item % p.heads);
  });
}

}  // namespace

extern "C" {
void delta_rule_forward_float(const Problem* p) { run<float>(*p, false); }
void delta_rule_backward_float(const Problem* p) { run<float>(*p, true); }
void delta_rule_forward_double(const Problem* p) { run<double>(*p, false); }
void delta_rule_backward_double(const Problem* p) { run<double>(*p, true); }
}
LAYOUT(delta_rule, Problem, 1, N)
