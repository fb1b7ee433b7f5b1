// A segment of one row and head, backward, given the inner model at its start.
#pragma once
#include "segment.h"

template <class T, int N>
class BackwardWorker : public Worker<T, N> {
  using Base = Worker<T, N>;
  using typename Base::V;

 public:
  explicit BackwardWorker(const Problem& problem) : Base(problem) {
    const int64_t wide = std::max(d, e) * N;
    for (T** x : {&dq, &dk, &dy, &d_normal, &d_target, &d_scale, &d_shift}) *x = arena.take(d * N);
    for (int i = 0; i < layers; ++i) {
      d_written[i] = arena.take(layer[i].rows * N);
      d_inputs[i] = i ? arena.take(e * N) : dk;
    }
    for (T** x : {&d_read, &d_moved, &d_input, &tokens}) *x = arena.take(wide);
    for (T** x : {&d_scores, &turned}) *x = arena.take(N * N);
    dc.resize(p.period);
    d_weights = arena.take(p.size), d_sums = arena.take(p.size);
  }

 protected:
  using Base::along, Base::arena, Base::b, Base::begin, Base::c, Base::cos, Base::count, Base::d;
  using Base::e, Base::error, Base::eta, Base::inverse, Base::layer, Base::layers, Base::normal;
  using Base::p, Base::position, Base::read_inverse, Base::read_normal, Base::scale, Base::sin;
  using Base::space;

  // Propagates the adjoints of the weights and summed gradients from the end of the segment to its
  // start. total: the sums at its start, or null; closes: the mini-batch ends with it.
  void backward(const Inner<T>& w, const Inner<T>* total, bool closes) {
    this->gradients(w, true);
    this->read(w, total, true);
    std::fill(d_eta, d_eta + N, T(0));
    std::memset(dk, 0, sizeof(T) * d * N);
    if (layers > 1) std::memset(d_inputs[1], 0, sizeof(T) * e * N);
    for (int i = 0; i < layers; ++i)
      to_tokens<N>(layer[i].x_tokens, layer[i].x, layer[i].columns);
    write_back(total, closes);
    read_back(w, total);
    gradients_back(w);
    inputs_back();
  }

  // From W - c (G + sum of a u^T) if the mini-batch closes, else from G + sum of a u^T.
  void write_back(const Inner<T>* total, bool closes) {
    const Inner<T> sums = this->inner(d_sums), weights = this->inner(d_weights);
    if (!closes && !summed) {
      for (int i = 0; i < layers; ++i)
        std::memset(d_written[i], 0, sizeof(T) * layer[i].rows * N);
      return;
    }
    const T last = static_cast<const T*>(p.c)[p.period - 1], f = closes ? -last : T(1);
    for (int i = 0; i < layers; ++i) {
      Layer<T, N>& l = layer[i];
      this->affine(space, closes ? weights : sums, i, l.u);
      T dot[N] = {};
      if (closes) dots<N>(dot, l.written, space, l.rows);
      for (int t = 0; t < N; ++t) dc[p.period - 1] -= dot[t];
      sweep<T, N>(l.rows, [&](long, long j, int) {
        store(d_written[i] + j, f * load(space + j));
        store(space + j, f * load(l.written + j));
      });
      const T* m = closes ? weights.weight[i] : sums.weight[i];
      product<true, N>(d_inputs[i], m, 1, l.columns, space, l.columns, l.rows);
    }
    if (closes && total) {
      // the sums of a model are contiguous, starting with its first weight
      dc[p.period - 1] -= ::inner(d_weights, total->weight[0], p.size);
      for (int64_t j = 0; j < p.size; ++j) d_sums[j] = -last * d_weights[j];
      summed = true;
    }
  }

  void read_back(const Inner<T>& w, const Inner<T>* total) {
    to_lanes<N>(dy, this->single(static_cast<const T*>(p.dy), begin), p.heads * d, d, count);
    sweep<T, N>(d, [&](long r, long j, int) {
      const V of = load(dy + j);
      store(d_scale + j, load(d_scale + j) + of * load(read_normal + j));
      store(d_shift + j, load(d_shift + j) + of);
      store(d_read + j, scale[r] * of);
    });
    T ignored[N];
    through_norm<N>(d_read, ignored, d_read, read_normal, read_inverse,
                    static_cast<const T*>(nullptr), d);
    if (total && !summed) std::memset(d_sums, 0, sizeof(T) * p.size), summed = true;
    for (int i = layers - 1; i >= 0; --i) {
      layer_back(i, w, total);
      if (!i) break;
      this->multiply(d_read, d_input, layer[1].read_slope, e);
    }
    sweep<T, N>(d, [&](long, long j, int) { store(dq + j, load(dy + j) + load(d_input + j)); });
  }

  // From d_read, of the layer's output at the queries, to d_input, of its input there.
  void layer_back(int i, const Inner<T>& w, const Inner<T>* total) {
    Layer<T, N>& l = layer[i];
    const long rows = l.rows, columns = l.columns;
    const Inner<T> weights = this->inner(d_weights), sums = this->inner(d_sums);
    T dot[N] = {}, factor[N];
    dots<N>(dot, d_read, l.moved, rows);
    for (int t = 0; t < count; ++t) dc[position + t] -= dot[t];
    for (int t = 0; t < N; ++t) factor[t] = -c[t];
    scaled<false, N>(d_moved, factor, d_read, rows);
    add(weights, i, d_read, l.x_tokens);
    product<false, N>(d_input, w.weight[i], 1, columns, d_read, columns, rows);
    if (total) {
      add(sums, i, d_moved, l.x_tokens);
      product<true, N>(d_input, total->weight[i], 1, columns, d_moved, columns, rows);
    }
    product<false, N>(d_scores, l.written, 1, N, d_moved, N, rows);
    for (int s = 0; s < N; ++s)
      for (int t = 0; t < s; ++t) d_scores[s * N + t] = 0;
    product<true, N>(d_input, l.u, N, 1, d_scores, columns, N);
    transpose(turned, static_cast<long>(N), d_scores, static_cast<long>(N), N, N);
    product<true, N>(d_inputs[i], l.x, N, 1, turned, columns, N);
    transpose(turned, static_cast<long>(N), l.scores, static_cast<long>(N), N, N);
    product<true, N>(d_written[i], d_moved, N, 1, turned, rows, N);
  }

  // From the written gradients, and the known gradients of the layers' inputs, to k and v.
  void gradients_back(const Inner<T>& w) {
    const Inner<T> weights = this->inner(d_weights);
    Layer<T, N>& last = layer[layers - 1];
    for (int i = 0; i < layers; ++i) {
      dots<N>(d_eta, d_written[i], layer[i].gradient, layer[i].rows);
      scaled<false, N>(d_written[i], eta, d_written[i], layer[i].rows);  // of the gradients
    }
    T* d_back = d_read;
    if (layers > 1) {
      this->multiply(d_back, d_written[0], last.slope, e);
      product<true, N>(d_written[1], w.weight[1], e, 1, d_back, d, e);
      to_tokens<N>(tokens, d_back, e);
      outer_add<N>(weights.weight[1], last.gradient, tokens, d, e, count);
    }
    T* dz = d_moved;
    norm_back(dz, d_written[layers - 1]);
    add(weights, layers - 1, dz, last.u_tokens);
    product<true, N>(d_inputs[layers - 1], w.weight[layers - 1], 1, last.columns, dz, last.columns,
                     d);
    if (layers == 1) return;
    sweep<T, N>(e, [&](long, long j, int) {
      const V of_slope = load(d_written[0] + j) * load(last.back + j);
      store(dz + j, load(d_inputs[1] + j) * load(last.slope + j) + of_slope * load(last.curvature + j));
    });
    add(weights, 0, dz, layer[0].u_tokens);
    product<true, N>(dk, w.weight[0], 1, d, dz, d, e);
  }

  // Through g = inverse (s - mean(s) - mean(s n) n), s = scale error, and n = LN(z), from dg to dz.
  void norm_back(T* dz, const T* dg) {
    T of_gradient[N] = {}, with_gradient[N], factor[N], ignored[N];
    dots<N>(of_gradient, dg, layer[layers - 1].gradient, d);
    for (int t = 0; t < N; ++t) of_gradient[t] /= d;
    through_norm<N>(space, with_gradient, dg, normal, inverse, static_cast<const T*>(nullptr), d);
    for (int t = 0; t < N; ++t) with_gradient[t] *= inverse[t], factor[t] = inverse[t] * along[t];
    sweep<T, N>(d, [&](long r, long j, int t) {
      const V of = load(space + j), off = load(error + j), of_error = scale[r] * of;
      store(d_scale + j, load(d_scale + j) + of * off + of_error * load(normal + j));
      store(d_shift + j, load(d_shift + j) + of_error);
      store(d_target + j, -of_error);
      store(d_normal + j, scale[r] * (of_error - load(with_gradient + t) * off) -
                              load(factor + t) * load(dg + j));
    });
    through_norm<N>(dz, ignored, d_normal, normal, inverse, of_gradient, d);
  }

  void inputs_back() {
    sweep<T, N>(d, [&](long, long j, int) {
      store(dk + j, load(dk + j) - load(d_target + j));
    });
    rotate<N>(dq, cos, sin, T(-1), d);
    rotate<N>(dk, cos, sin, T(-1), d);
    T* dqk = static_cast<T*>(p.dqk);
    const long lanes = N;
    transpose(this->pair(dqk, begin, 0), 2 * p.heads * d, dq, lanes, d, count);
    transpose(this->pair(dqk, begin, 1), 2 * p.heads * d, dk, lanes, d, count);
    transpose(this->single(static_cast<T*>(p.dv), begin), p.heads * d, d_target, lanes, d, count);
    for (int t = 0; t < count; ++t) *this->rate(static_cast<T*>(p.d_eta), begin + t) = d_eta[t];
  }

  // From the gradients of outputs, and inputs, to the gradients of a weight and a bias.
  void add(const Inner<T>& to, int i, const T* outputs, const T* inputs_by_token) {
    outer_add<N>(to.weight[i], outputs, inputs_by_token, layer[i].rows, layer[i].columns, count);
    add_sums<N>(to.bias[i], outputs, layer[i].rows);
  }

  T *dq, *dk, *dy, *d_normal, *d_target, *d_scale, *d_shift;
  T *d_read, *d_moved, *d_input, *tokens, *d_scores, *turned;
  T *d_written[2], *d_inputs[2];
  T *d_weights, *d_sums;  // adjoints of the anchor and of the summed gradients
  bool summed = false;    // whether d_sums is non-zero
  T d_eta[N];
  std::vector<T> dc;
};
