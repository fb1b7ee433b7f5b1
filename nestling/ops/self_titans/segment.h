// One segment of one row and head, forward: the equations of SelfTitans with tokens in lanes.
#pragma once
#include "problem.h"

enum Role { KEY = 0, ETA = 1, ALPHA = 2, VALUE = 3 };  // the last memory is read

template <class T>
struct State {
  Layers<T> weight, momentum;
};

// The data of a segment that all memories share.
template <class T, int N>
struct Segment {
  T *q, *k_in, *v_in, *k, *v, *q_tokens, *k_in_tokens, *v_in_tokens, *k_tokens, *v_tokens;
  T q_inverse[N], k_in_inverse[N], v_in_inverse[N], k_inverse[N], v_inverse[N];
  T alpha[N], mu[N], eta_sigmoid[N], eta[N], scale[N];
  T *made[4], *slope[4];       // gelu(A_1 x) of the memories of k, eta, alpha, v; its slope
  T *readout[2];               // A_2^T w of eta and alpha
  T *gram, *inverse, *inverse_tokens;
  Gates<T, N> gates;
  int count;
};

// The data of one memory.
template <class T, int N>
struct Written {
  T *v_hidden, *v_slope, *target, *hidden, *hidden_tokens, *slope, *curvature, *back;
  T *second_gradient, *first_gradient;
  T target_inverse[N], clip[N], energy[N], beta[N];
  Layer<T, N> first, second;
  Read<T, N> first_read, second_read;
  T *read_z, *read_hidden, *read_slope;
};

template <class T, int N>
class Worker {
 public:
  explicit Worker(const Problem& problem) : p(problem) {
    d = p.width, e = p.hidden, m = p.memories, size = d * e, whole = m * size;
    const int64_t wide = std::max(d, e) * N;
    for (T** x : {&s.q, &s.k_in, &s.v_in, &s.k, &s.v}) *x = arena.take(d * N);
    for (T** x : {&s.q_tokens, &s.k_in_tokens, &s.v_in_tokens, &s.k_tokens, &s.v_tokens})
      *x = arena.take(d * N);
    for (int i = 0; i < 4; ++i) s.made[i] = arena.take(e * N), s.slope[i] = arena.take(e * N);
    for (int i = 0; i < 2; ++i) s.readout[i] = arena.take(e);
    for (T** x : {&s.gram, &s.inverse, &s.inverse_tokens}) *x = arena.take(N * N);
    for (T** x : {&w.v_hidden, &w.v_slope, &w.hidden, &w.hidden_tokens, &w.slope, &w.curvature,
                  &w.back, &w.first_gradient, &w.read_z, &w.read_hidden, &w.read_slope})
      *x = arena.take(e * N);
    for (T** x : {&w.target, &w.second_gradient}) *x = arena.take(d * N);
    for (T** x : {&space, &space2, &space3}) *x = arena.take(wide);
    for (Layer<T, N>* x : {&w.first, &w.second}) {
      x->rows = x == &w.first ? e : d, x->columns = x == &w.first ? d : e;
      for (T** y : {&x->w, &x->erased, &x->gone, &x->weight_read, &x->momentum_read})
        *y = arena.take(x->rows * N);
      x->pushed = arena.take(N * N);
    }
    for (T** x : {&w.second.gram, &w.second.inverse, &w.second.inverse_tokens})
      *x = arena.take(N * N);
    w.first.gram = s.gram, w.first.inverse = s.inverse, w.first.inverse_tokens = s.inverse_tokens;
    w.first.u = s.k, w.first.u_tokens = s.k_tokens, w.first.beta = s.eta;
    w.second.u = w.hidden, w.second.u_tokens = w.hidden_tokens, w.second.beta = w.beta;
    for (Read<T, N>* x : {&w.first_read, &w.second_read}) {
      for (T** y : {&x->weight_read, &x->momentum_read}) *y = arena.take(wide);
      for (T** y : {&x->scores, &x->writes, &x->erasures}) *y = arena.take(N * N);
    }
    w.first_read.x = s.q, w.second_read.x = w.read_hidden;
    anchor.take(arena, whole);
  }

 protected:
  // The current position
  void at(int64_t batch, int64_t head) {
    b = batch, h = head;
    initial = {const_cast<T*>(static_cast<const T*>(p.first)) + h * whole,
               const_cast<T*>(static_cast<const T*>(p.second)) + h * whole};
    eta_weight = static_cast<const T*>(p.eta_weight) + h * d;
    alpha_weight = static_cast<const T*>(p.alpha_weight) + h * d;
    eta_bias = static_cast<const T*>(p.eta_bias)[h];
    alpha_bias = static_cast<const T*>(p.alpha_bias)[h];
  }
  // q, k or v (which = 0, 1, 2) of a token as it was given; its neighbour in time lies apart by between
  template <class U>
  U* token(U* x, int64_t t, int which) const {
    return x + (((b * p.length + t) * 3 + which) * p.heads + h) * d;
  }
  long between() const { return 3 * p.heads * d; }
  int64_t answer(int64_t t) const { return ((b * p.length + t) * p.heads + h) * d; }
  int64_t state_offset() const { return (b * p.heads + h) * whole; }

  void open(const Layers<T>& deviation) {
    for (int64_t i = 0; i < whole; ++i) anchor.first[i] = initial.first[i] + deviation.first[i];
    for (int64_t i = 0; i < whole; ++i) anchor.second[i] = initial.second[i] + deviation.second[i];
  }

  T clip_of(int i) const { return static_cast<T>(i + 1 == m ? p.clip : p.projection_clip); }
  const T* first_of(int i) const { return anchor.first + i * size; }
  const T* second_of(int i) const { return anchor.second + i * size; }

  // Load the segment and compute k, v, eta, alpha at the anchor.
  void make(int64_t begin, int64_t count) {
    s.count = count;
    T* lanes[3] = {s.q, s.k_in, s.v_in};
    T* inverses[3] = {s.q_inverse, s.k_in_inverse, s.v_in_inverse};
    for (int i = 0; i < 3; ++i) {
      to_lanes<N>(space, token(static_cast<const T*>(p.projected), begin, i), between(), d, count);
      unit<N>(lanes[i], inverses[i], space, d);
    }
    const T* mu = static_cast<const T*>(p.mu) + (b * p.length + begin) * p.heads + h;
    for (int t = 0; t < N; ++t) s.mu[t] = t < count ? mu[t * p.heads] : T(1);
    for (int i : {KEY, ETA, ALPHA, VALUE}) {
      const T* x = i == VALUE ? s.v_in : s.k_in;
      product<false, N>(space, first_of(i), d, 1, x, e, d);
      gelu(s.made[i], s.slope[i], static_cast<T*>(nullptr), space, e * N);
      if (i == ETA || i == ALPHA) continue;
      std::memcpy(space, x, sizeof(T) * d * N);
      product<true, N>(space, second_of(i), e, 1, s.made[i], d, e);
      unit<N>(i == KEY ? s.k : s.v, i == KEY ? s.k_inverse : s.v_inverse, space, d);
    }
    T logits[2][N];
    for (int i : {ETA, ALPHA}) {
      const T* weight = i == ETA ? eta_weight : alpha_weight;
      T* logit = logits[i - ETA];
      T* readout = s.readout[i - ETA];
      std::fill(readout, readout + e, T(0));
      for (int64_t r = 0; r < d; ++r)
        for (int64_t c = 0; c < e; ++c) readout[c] += weight[r] * second_of(i)[r * e + c];
      for (int t = 0; t < N; ++t) logit[t] = i == ETA ? eta_bias : alpha_bias;
      product<true, N>(logit, weight, 0, 1, s.k_in, 1, d);
      product<true, N>(logit, readout, 0, 1, s.made[i], 1, e);
    }
    for (int t = 0; t < N; ++t) {
      s.alpha[t] = t < count ? sigmoid(logits[1][t]) : T(1);
      s.eta_sigmoid[t] = t < count ? sigmoid(logits[0][t]) : T(0);
      s.eta[t] = s.eta_sigmoid[t] * std::min(1 + s.alpha[t], static_cast<T>(p.eta_max));
      s.scale[t] = s.eta[t] * (1 - s.mu[t]);
    }
    s.gates.set(s.alpha, s.mu, count);
    to_tokens<N>(s.k_tokens, s.k, d);
    w.first.set_gram();
    w.first.set_inverse(s.gates);
  }

  // The gradient of memory i, its writes and the values they erase.
  void write(int i, const State<T>& state, bool backward) {
    const T *first = first_of(i), *second = second_of(i);
    product<false, N>(space, first, d, 1, s.v, e, d);
    gelu(w.v_hidden, backward ? w.v_slope : nullptr, static_cast<T*>(nullptr), space, e * N);
    std::memcpy(space2, s.v, sizeof(T) * d * N);
    product<true, N>(space2, second, e, 1, w.v_hidden, d, e);
    unit<N>(w.target, w.target_inverse, space2, d);
    product<false, N>(space, first, d, 1, s.k, e, d);
    gelu(w.hidden, w.slope, backward ? w.curvature : nullptr, space, e * N);
    to_tokens<N>(w.hidden_tokens, w.hidden, e);
    T* g = w.second_gradient;
    if (p.dot) {
      for (int64_t r = 0; r < d * N; ++r) g[r] = -w.target[r];
    } else {
      std::memcpy(g, s.k, sizeof(T) * d * N);
      product<true, N>(g, second, e, 1, w.hidden, d, e);
      for (int64_t r = 0; r < d * N; ++r) g[r] -= w.target[r];
    }
    T square[N] = {};
    dots<N>(square, g, g, d);
    for (int t = 0; t < N; ++t) {
      const T length = std::sqrt(square[t]), most = clip_of(i);
      w.clip[t] = most / std::max(length, most);
    }
    scaled<false, N>(g, w.clip, g, d);
    product<false, N>(w.back, second, 1, e, g, e, d);
    for (int64_t r = 0; r < e * N; ++r) w.first_gradient[r] = w.slope[r] * w.back[r];
    for (int t = 0; t < N; ++t) w.energy[t] = static_cast<T>(p.epsilon);
    dots<N>(w.energy, w.hidden, w.hidden, e);
    T factor[N];
    for (int t = 0; t < N; ++t) factor[t] = -s.scale[t];
    scaled<false, N>(w.first.w, factor, w.first_gradient, e);
    for (int t = 0; t < N; ++t) {
      factor[t] /= w.energy[t];
      w.beta[t] = s.eta[t] / w.energy[t];
    }
    scaled<false, N>(w.second.w, factor, g, d);
    w.first.weight = state.weight.first + i * size;
    w.first.momentum = state.momentum.first + i * size;
    w.second.weight = state.weight.second + i * size;
    w.second.momentum = state.momentum.second + i * size;
    w.second.set_gram();
    w.second.set_inverse(s.gates);
    w.first.erase(s.gates, space);
    w.second.erase(s.gates, space);
  }

  // Read the last memory with q after each token; y in lanes. Call after write of that memory.
  void read(T* y, bool backward) {
    const int last = m - 1;
    w.first_read.fixed = initial.first + last * size;
    w.second_read.fixed = initial.second + last * size;
    w.first_read.run(w.first, s.gates, w.read_z);
    gelu(w.read_hidden, backward ? w.read_slope : nullptr, static_cast<T*>(nullptr), w.read_z,
         e * N);
    w.second_read.run(w.second, s.gates, y);
    for (int64_t r = 0; r < d * N; ++r) y[r] += s.q[r];
  }

  // Read if y is given, and advance the state `from` to `to`, which may be the same.
  void forward(int64_t begin, int64_t count, const State<T>& from, const State<T>& to, T* y) {
    make(begin, count);
    for (int i = 0; i < m; ++i) {
      write(i, from, false);
      if (y && i + 1 == m) {
        read(space3, false);
        transpose(y + answer(begin), static_cast<long>(p.heads * d), space3,
                  static_cast<long>(N), d, count);
      }
      // the new weight needs the old momentum, and close reads both before it writes
      w.first.close(s.gates, to.weight.first + i * size, to.momentum.first + i * size, space);
      w.second.close(s.gates, to.weight.second + i * size, to.momentum.second + i * size, space);
    }
  }

  const Problem& p;
  Arena<T> arena;
  int64_t d, e, m, size, whole, b = 0, h = 0;
  Segment<T, N> s;
  Written<T, N> w;
  Layers<T> anchor, initial;  // the full weights at the start of the period; the learned start
  T *space, *space2, *space3;
  const T *eta_weight, *alpha_weight;
  T eta_bias, alpha_bias;
};
