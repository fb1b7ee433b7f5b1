// One segment of one row and head, backward, given the state at its start.
#pragma once
#include "segment.h"

template <class T, int N>
class BackwardWorker : public Worker<T, N> {
  using Base = Worker<T, N>;
 public:
  explicit BackwardWorker(const Problem& problem) : Base(problem) {
    const int64_t wide = std::max(d, e) * N;
    for (T** x : {&dq, &dk_in, &dv_in, &dk, &dv, &d_target, &dy, &d_made, &v_tokens, &k_in_tokens,
                  &v_in_tokens, &q_tokens})
      *x = arena.take(d * N);
    for (T** x : {&d_hidden, &d_back, &d_query, &d_input, &other, &tokens_e}) *x = arena.take(wide);
    for (T** x : {&gram, &tokens}) *x = arena.take(N * N);
    for (LayerGradient<T, N>* x : {&first, &second}) {
      const int64_t rows = x == &first ? e : d;
      x->w = arena.take(rows * N), x->gone = arena.take(rows * N);
      x->beta = arena.take(N), x->gram = arena.take(N * N);
      x->space = space, x->space2 = space2, x->tokens = tokens;
    }
    first.u = dk, second.u = d_hidden;
    for (Layers<T>* x : {&d_weight, &d_momentum, &d_anchor}) x->take(arena, whole);
  }

 protected:
  using Base::alpha_weight, Base::anchor, Base::arena, Base::b, Base::d, Base::e, Base::eta_weight;
  using Base::h, Base::initial, Base::m, Base::p, Base::s, Base::size, Base::space, Base::space2;
  using Base::space3, Base::w, Base::whole;

  // Propagates the adjoints of the state and the anchor from the end of the segment to its start.
  void backward(int64_t begin, int64_t count, const State<T>& state) {
    this->make(begin, count);
    to_tokens<N>(q_tokens, s.q, d);
    to_tokens<N>(k_in_tokens, s.k_in, d);
    to_tokens<N>(v_in_tokens, s.v_in, d);
    to_tokens<N>(v_tokens, s.v, d);
    transpose(s.inverse_tokens, static_cast<long>(N), s.inverse, static_cast<long>(N), N, N);
    gates.clear();
    for (T* x : {dk, dv, dk_in, dv_in}) std::memset(x, 0, sizeof(T) * d * N);
    std::memset(first.gram, 0, sizeof(T) * N * N);
    std::fill(d_eta, d_eta + N, T(0));
    std::fill(d_scale, d_scale + N, T(0));
    to_lanes<N>(dy, static_cast<const T*>(p.dy) + this->answer(begin), p.heads * d, d, count);
    for (int i = 0; i < m; ++i) write_back(i, state, i + 1 == m);
    first.gram_into_input(w.first);
    make_back();
    rates_back(begin, count);
    inputs_back(begin, count);
  }

  void write_back(int i, const State<T>& state, bool reads) {
    this->write(i, state, true);
    transpose(w.second.inverse_tokens, static_cast<long>(N), w.second.inverse,
              static_cast<long>(N), N, N);
    first.weight = d_weight.first + i * size, first.momentum = d_momentum.first + i * size;
    second.weight = d_weight.second + i * size, second.momentum = d_momentum.second + i * size;
    std::memset(d_hidden, 0, sizeof(T) * e * N);
    std::memset(second.gram, 0, sizeof(T) * N * N);
    if (reads) this->read(space3, true);
    first.close(w.first, s.gates, gates);
    second.close(w.second, s.gates, gates);
    if (reads) read_back(i);
    first.erase(w.first, s.gates, gates);
    second.erase(w.second, s.gates, gates);
    second.gram_into_input(w.second);
    strengths_back();
    gradient_back(i);
  }

  void read_back(int i) {
    const int64_t place = this->state_offset() + i * size;
    to_tokens<N>(tokens_e, w.read_hidden, e);
    second.read(w.second, w.second_read, s.gates, gates, dy, tokens_e, d_query,
                static_cast<T*>(p.d_second) + place);
    for (int64_t r = 0; r < e * N; ++r) d_query[r] *= w.read_slope[r];
    first.read(w.first, w.first_read, s.gates, gates, d_query, q_tokens, dq,
               static_cast<T*>(p.d_first) + place);
    for (int64_t r = 0; r < d * N; ++r) dq[r] += dy[r];
  }

  // From writes and erase strengths to gradients, eta and the energy of the hidden layer.
  void strengths_back() {
    T dot_first[N] = {}, dot_second[N] = {}, dot_written[N] = {}, d_energy[N];
    dots<N>(dot_first, first.w, w.first_gradient, e);
    dots<N>(dot_second, second.w, w.second_gradient, d);
    dots<N>(dot_written, second.w, w.second.w, d);
    for (int t = 0; t < N; ++t) {
      d_scale[t] -= dot_first[t] + dot_second[t] / w.energy[t];
      d_eta[t] += first.beta[t] + second.beta[t] / w.energy[t];
      d_energy[t] = -2 * (w.beta[t] * second.beta[t] + dot_written[t]) / w.energy[t];
    }
    scaled<true, N>(d_hidden, d_energy, w.hidden, e);
  }

  // From the gradients of both layers, d_hidden so far and dk so far to dk, dv and the anchor.
  void gradient_back(int i) {
    const T *A1 = this->first_of(i), *A2 = this->second_of(i);
    T *dA1 = d_anchor.first + i * size, *dA2 = d_anchor.second + i * size;
    T factor[N];
    for (int t = 0; t < N; ++t) factor[t] = -s.scale[t];
    scaled<false, N>(space, factor, first.w, e);  // of the first layer's gradient
    for (int64_t r = 0; r < e * N; ++r) {
      d_back[r] = space[r] * w.slope[r];
      other[r] = space[r] * w.back[r];  // of the slope
    }
    for (int t = 0; t < N; ++t) factor[t] /= w.energy[t];
    scaled<false, N>(d_target, factor, second.w, d);  // of the second layer's gradient
    product<true, N>(d_target, A2, e, 1, d_back, d, e);
    to_tokens<N>(tokens_e, d_back, e);
    outer_add<N>(dA2, w.second_gradient, tokens_e, d, e, s.count);
    clip_back(d_target, this->clip_of(i));
    if (!p.dot) {
      for (int64_t r = 0; r < d * N; ++r) dk[r] += d_target[r];
      product<true, N>(d_hidden, A2, 1, e, d_target, e, d);
      outer_add<N>(dA2, d_target, w.hidden_tokens, d, e, s.count);
    }
    for (int64_t r = 0; r < e * N; ++r)
      d_hidden[r] = d_hidden[r] * w.slope[r] + other[r] * w.curvature[r];  // of z
    product<true, N>(dk, A1, 1, d, d_hidden, d, e);
    outer_add<N>(dA1, d_hidden, s.k_tokens, e, d, s.count);
    for (int64_t r = 0; r < d * N; ++r) d_target[r] = -d_target[r];
    unit_back<false, N>(d_made, d_target, w.target, w.target_inverse, d);
    network_back(i, d_made, w.v_hidden, w.v_slope, v_tokens, dv);
  }

  // Through x + A_2 gelu(A_1 x): dy is given, dx is added to.
  void network_back(int i, const T* grad, const T* hidden, const T* slope, const T* x_tokens,
                    T* dx) {
    T *dA1 = d_anchor.first + i * size, *dA2 = d_anchor.second + i * size;
    for (int64_t r = 0; r < d * N; ++r) dx[r] += grad[r];
    to_tokens<N>(tokens_e, hidden, e);
    outer_add<N>(dA2, grad, tokens_e, d, e, s.count);
    product<false, N>(other, this->second_of(i), 1, e, grad, e, d);
    for (int64_t r = 0; r < e * N; ++r) other[r] *= slope[r];
    product<true, N>(dx, this->first_of(i), 1, d, other, d, e);
    outer_add<N>(dA1, other, x_tokens, e, d, s.count);
  }

  void clip_back(T* grad, T most) {
    T along[N] = {};
    dots<N>(along, grad, w.second_gradient, d);
    for (int t = 0; t < N; ++t) along[t] = w.clip[t] < 1 ? along[t] / (most * most) : T(0);
    for (int64_t r = 0; r < d; ++r)
      for (int t = 0; t < N; ++t) {
        const int64_t j = r * N + t;
        grad[j] = w.clip[t] * (grad[j] - along[t] * w.second_gradient[j]);
      }
  }

  // Through the memories that produced k and v.
  void make_back() {
    unit_back<false, N>(d_made, dk, s.k, s.k_inverse, d);
    network_back(KEY, d_made, s.made[KEY], s.slope[KEY], k_in_tokens, dk_in);
    unit_back<false, N>(d_made, dv, s.v, s.v_inverse, d);
    network_back(VALUE, d_made, s.made[VALUE], s.slope[VALUE], v_in_tokens, dv_in);
  }

  // Through the gates, eta and alpha, and the memories that produced them.
  void rates_back(int64_t begin, int64_t count) {
    T d_alpha[N], d_mu[N], d_logit[2][N];
    gates.finish(d_alpha, d_mu, s.gates);
    T* out = static_cast<T*>(p.dmu) + (b * p.length + begin) * p.heads + h;
    const T most = static_cast<T>(p.eta_max);
    for (int t = 0; t < count; ++t) {
      out[t * p.heads] = d_mu[t] - d_scale[t] * s.eta[t];
      const T grad = d_eta[t] + d_scale[t] * (1 - s.mu[t]);
      if (1 + s.alpha[t] <= most) d_alpha[t] += grad * s.eta_sigmoid[t];
      const T eta = s.eta_sigmoid[t];
      d_logit[0][t] = grad * std::min(1 + s.alpha[t], most) * eta * (1 - eta);
      d_logit[1][t] = d_alpha[t] * s.alpha[t] * (1 - s.alpha[t]);
    }
    for (int i : {ETA, ALPHA}) {
      T* logit = d_logit[i - ETA];
      for (int t = count; t < N; ++t) logit[t] = 0;
      readout_back(i, logit, i == ETA ? eta_weight : alpha_weight,
                   static_cast<T*>(i == ETA ? p.d_eta_weight : p.d_alpha_weight) +
                       (b * p.heads + h) * d,
                   static_cast<T*>(i == ETA ? p.d_eta_bias : p.d_alpha_bias)[b * p.heads + h]);
    }
  }

  // logit = w x + (A_2^T w) gelu(A_1 x) + bias
  void readout_back(int i, const T* logit, const T* weight, T* d_weight_out, T& d_bias) {
    T *dA1 = d_anchor.first + i * size, *dA2 = d_anchor.second + i * size;
    const T* A2 = this->second_of(i);
    for (int t = 0; t < N; ++t) d_bias += logit[t];
    T* sum = other;  // sum_t logit gelu(A_1 x)
    for (int64_t r = 0; r < e; ++r) sum[r] = inner(logit, s.made[i] + r * N, N);
    for (int64_t r = 0; r < d; ++r) {
      for (int64_t c = 0; c < e; ++c) dA2[r * e + c] += weight[r] * sum[c];
      d_weight_out[r] += inner(logit, s.k_in + r * N, N) + inner(A2 + r * e, sum, e);
      for (int t = 0; t < N; ++t) dk_in[r * N + t] += weight[r] * logit[t];
    }
    for (int64_t r = 0; r < e; ++r)
      for (int t = 0; t < N; ++t)
        other[r * N + t] = s.readout[i - ETA][r] * logit[t] * s.slope[i][r * N + t];
    product<true, N>(dk_in, this->first_of(i), 1, d, other, d, e);
    outer_add<N>(dA1, other, k_in_tokens, e, d, s.count);
  }

  void inputs_back(int64_t begin, int64_t count) {
    T* grads[3] = {dq, dk_in, dv_in};
    const T* units[3] = {s.q, s.k_in, s.v_in};
    const T* inverses[3] = {s.q_inverse, s.k_in_inverse, s.v_in_inverse};
    for (int i = 0; i < 3; ++i) {
      unit_back<false, N>(d_made, grads[i], units[i], inverses[i], d);
      transpose(this->token(static_cast<T*>(p.d_projected), begin, i), this->between(), d_made,
                static_cast<long>(N), d, count);
    }
  }

  LayerGradient<T, N> first, second;
  GateGradients<T, N> gates;
  Layers<T> d_weight, d_momentum, d_anchor;
  T d_eta[N], d_scale[N];
  T *dq, *dk_in, *dv_in, *dk, *dv, *d_target, *dy, *d_made;
  T *v_tokens, *k_in_tokens, *v_in_tokens, *q_tokens, *tokens_e, *tokens;
  T *d_hidden, *d_back, *d_query, *d_input, *other, *gram;
};
