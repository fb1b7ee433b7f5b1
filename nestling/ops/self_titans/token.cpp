// One token of self-modifying Titans for every row and head: the equations of
// nestling/memories/self_titans/decode.py, each weight read once from memory and written once.
#include <memory>

#include "ops/momentum_gated_delta_rule/lanes.h"

namespace {

struct Token {
  int64_t batch, heads, memories, width, hidden, threads, dot;
  double epsilon, clip, projection_clip, eta_max;        // clip: of the last memory
  const void *projected, *mu;                            // [B, 3, H, d] (q, k, v); [B, H]
  const void *first, *second;                            // learned initial states [H, M, ...]
  const void *eta_weight, *eta_bias, *alpha_weight, *alpha_bias;
  const void *anchor[2], *weight[2], *momentum[2];       // the state that comes in [B, H, M, ...]
  void *weight_out[2], *momentum_out[2], *y;             // y [B, H, d]
};

template <class T>
T dot(const T* x, const T* y, int64_t count) {
  constexpr int L = Vector<T>::lanes;
  typename Vector<T>::type sum = {};
  int64_t i = 0;
  for (; i + L <= count; i += L) sum += load(x + i) * load(y + i);
  T total = 0;
  for (int j = 0; j < L; ++j) total += sum[j];
  for (; i < count; ++i) total += x[i] * y[i];
  return total;
}

// out = add + weight x, for a weight [rows][columns]; without add, weight x.
template <class T>
void times(T* out, const T* add, const T* weight, const T* x, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r)
    out[r] = (add ? add[r] : T(0)) + dot(weight + r * columns, x, columns);
}

template <class T>
void unit(T* x, int64_t count) {
  const T length = std::max(std::sqrt(dot(x, x, count)), T(1e-6));
  for (int64_t i = 0; i < count; ++i) x[i] /= length;
}

template <class T>
struct Rates {
  T alpha, mu, beta, scale;
};

// S' = mu S - scale g u^T, D' = alpha D - beta (D u) u^T + S', row by row.
template <class T>
void write(T* new_weight, T* new_momentum, const T* weight, const T* momentum, const T* g,
           const T* u, const Rates<T>& rate, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r) {
    const T *D = weight + r * columns, *S = momentum + r * columns;
    T *E = new_weight + r * columns, *P = new_momentum + r * columns;
    const T erased = rate.beta * dot(D, u, columns), step = rate.scale * g[r];
    for (int64_t c = 0; c < columns; ++c) {
      const T s = rate.mu * S[c] - step * u[c];
      P[c] = s;
      E[c] = rate.alpha * D[c] - erased * u[c] + s;
    }
  }
}

template <class T>
class Worker {
 public:
  explicit Worker(const Token& problem) : p(problem) {
    d = p.width, e = p.hidden, m = p.memories, size = d * e;
    wide = (std::max(d, e) + 15) / 16 * 16;
    space.resize(2 * m * size + 14 * wide + 16);
    const auto address = reinterpret_cast<uintptr_t>(space.data());
    T* at = reinterpret_cast<T*>((address + 63) / 64 * 64);
    first = at, second = at + m * size, at += 2 * m * size;
    for (T** x : {&q, &k, &v, &key, &value, &made, &z, &hidden, &slope, &target, &g, &back, &z2,
                  &hidden2})
      *x = at, at += wide;
  }

  void run(int64_t b, int64_t h) {
    const int64_t place = (b * p.heads + h) * m * size, initial = h * m * size;
    const T *fixed_1 = pointer(p.first) + initial, *fixed_2 = pointer(p.second) + initial;
    const T *from_1 = pointer(p.anchor[0]) + place, *from_2 = pointer(p.anchor[1]) + place;
    for (int64_t i = 0; i < m * size; ++i) first[i] = fixed_1[i] + from_1[i];
    for (int64_t i = 0; i < m * size; ++i) second[i] = fixed_2[i] + from_2[i];
    T* inputs[3] = {q, k, v};
    for (int i = 0; i < 3; ++i) {
      std::memcpy(inputs[i], pointer(p.projected) + ((b * 3 + i) * p.heads + h) * d, d * sizeof(T));
      unit(inputs[i], d);
    }
    make(0, k, key), unit(key, d);
    make(1, k, made);
    const T eta_logit = dot(made, pointer(p.eta_weight) + h * d, d) + pointer(p.eta_bias)[h];
    make(2, k, made);
    const T alpha_logit = dot(made, pointer(p.alpha_weight) + h * d, d) + pointer(p.alpha_bias)[h];
    make(3, v, value), unit(value, d);
    const T alpha = sigmoid(alpha_logit), mu = pointer(p.mu)[b * p.heads + h];
    const T eta = sigmoid(eta_logit) * std::min(1 + alpha, static_cast<T>(p.eta_max));
    for (int64_t i = 0; i < m; ++i) memory(i, {alpha, mu, eta, eta * (1 - mu)}, place + i * size);
    answer(place + (m - 1) * size, fixed_1 + (m - 1) * size, fixed_2 + (m - 1) * size);
    std::memcpy(static_cast<T*>(p.y) + (b * p.heads + h) * d, made, d * sizeof(T));
  }

 private:
  static const T* pointer(const void* x) { return static_cast<const T*>(x); }

  // x + A_2 gelu(A_1 x) of memory i.
  void make(int64_t i, const T* x, T* out) {
    times(z, static_cast<T*>(nullptr), first + i * size, x, e, d);
    gelu(hidden, static_cast<T*>(nullptr), static_cast<T*>(nullptr), z, e);
    times(out, x, second + i * size, hidden, d, e);
  }

  // Gradient and write of memory i, whose state starts at `place`.
  void memory(int64_t i, const Rates<T>& rate, int64_t place) {
    make(i, value, target), unit(target, d);
    times(z, static_cast<T*>(nullptr), first + i * size, key, e, d);
    gelu(hidden, slope, static_cast<T*>(nullptr), z, e);
    if (p.dot) {
      for (int64_t c = 0; c < d; ++c) g[c] = -target[c];
    } else {
      times(g, key, second + i * size, hidden, d, e);
      for (int64_t c = 0; c < d; ++c) g[c] -= target[c];
    }
    const T most = static_cast<T>(i + 1 == m ? p.clip : p.projection_clip);
    const T length = std::sqrt(dot(g, g, d));
    for (int64_t c = 0; c < d; ++c) g[c] *= most / std::max(length, most);
    std::fill(back, back + e, T(0));
    for (int64_t r = 0; r < d; ++r)
      for (int64_t c = 0; c < e; ++c) back[c] += g[r] * second[i * size + r * e + c];
    for (int64_t c = 0; c < e; ++c) back[c] *= slope[c];
    const T energy = static_cast<T>(p.epsilon) + dot(hidden, hidden, e);
    write(out(p.weight_out[0], place), out(p.momentum_out[0], place), pointer(p.weight[0]) + place,
          pointer(p.momentum[0]) + place, back, key, rate, e, d);
    write(out(p.weight_out[1], place), out(p.momentum_out[1], place), pointer(p.weight[1]) + place,
          pointer(p.momentum[1]) + place, g, hidden,
          {rate.alpha, rate.mu, rate.beta / energy, rate.scale / energy}, d, e);
  }

  static T* out(void* x, int64_t place) { return static_cast<T*>(x) + place; }

  // The last memory's output for q, after its write; stored in `made`.
  void answer(int64_t place, const T* fixed_1, const T* fixed_2) {
    const T *new_1 = out(p.weight_out[0], place), *new_2 = out(p.weight_out[1], place);
    times(z2, static_cast<T*>(nullptr), new_1, q, e, d);
    times(z, z2, fixed_1, q, e, d);
    gelu(hidden2, static_cast<T*>(nullptr), static_cast<T*>(nullptr), z, e);
    times(target, q, new_2, hidden2, d, e);
    times(made, target, fixed_2, hidden2, d, e);
  }

  const Token& p;
  int64_t d, e, m, size, wide;
  std::vector<T> space;
  T *first, *second, *q, *k, *v, *key, *value, *made, *z, *hidden, *slope, *target, *g, *back;
  T *z2, *hidden2;
};

template <class T>
void run(const Token& problem) {
  std::vector<std::unique_ptr<Worker<T>>> workers(std::max<int64_t>(problem.threads, 1));
  share_out(problem.batch * problem.heads, problem.threads, [&](int64_t item, int64_t worker) {
    if (!workers[worker]) workers[worker] = std::make_unique<Worker<T>>(problem);
    workers[worker]->run(item / problem.heads, item % problem.heads);
  });
}

}  // namespace

extern "C" {
void self_titans_token_forward_float(const Token* problem) { run<float>(*problem); }
void self_titans_token_forward_double(const Token* problem) { run<double>(*problem); }
}
LAYOUT(self_titans_token, Token, 2, 0)
