// A mini-batch, or a piece of one, of one row and head, forward: gradients, reads, the write.
#pragma once
#include "norm.h"
#include "problem.h"

// One layer of the inner model through one segment.
template <class T, int N>
struct Layer {
  long rows, columns;
  T *u, *u_tokens;                // its inputs at the keys, lanes and by token
  T *gradient, *written;          // lanes: of its outputs, and that times eta
  T *x, *x_tokens;                // its inputs at the queries
  T *moved;                       // lanes: change of the read by the gradients of tokens so far
  T *scores;                      // [s][t]: u_s x_t + 1 for s <= t, else 0
  T *slope, *curvature, *back;    // of the GELU before it, and the gradient before that slope
  T *read_slope;
};

template <class T, int N>
class Worker {
 protected:
  typedef typename Vector<T>::type V;

 public:
  explicit Worker(const Problem& problem)
      : p(problem), d(p.width), e(p.hidden), layers(e ? 2 : 1) {
    for (T** x : {&target, &error, &normal, &read_normal}) *x = arena.take(d * N);
    for (T** x : {&cos, &sin}) *x = arena.take(d / 2 * N);
    for (int i = 0; i < layers; ++i) {
      Layer<T, N>& l = layer[i];
      l.rows = i + 1 < layers ? e : d, l.columns = i ? e : d;
      for (T** x : {&l.u, &l.u_tokens, &l.x, &l.x_tokens}) *x = arena.take(l.columns * N);
      for (T** x : {&l.gradient, &l.written, &l.moved}) *x = arena.take(l.rows * N);
      for (T** x : {&l.slope, &l.curvature, &l.back, &l.read_slope})
        *x = i ? arena.take(l.columns * N) : nullptr;
      l.scores = arena.take(N * N);
    }
    space = arena.take(std::max(d, e) * N);
  }

 protected:
  void at(int64_t batch, int64_t head) {
    b = batch, h = head, angles_of = -1;
    scale = static_cast<const T*>(p.scale) + h * d, shift = static_cast<const T*>(p.shift) + h * d;
  }
  Inner<T> inner(T* start) const { return Inner<T>::at(start, d, e); }
  // q (which = 0) or k (1) of a token, its v or y, its eta
  template <class U>
  U* pair(U* x, int64_t t, int which) const {
    return x + (((b * p.length + t) * 2 + which) * p.heads + h) * d;
  }
  template <class U>
  U* single(U* x, int64_t t) const { return x + ((b * p.length + t) * p.heads + h) * d; }
  template <class U>
  U* rate(U* x, int64_t t) const { return x + (b * p.length + t) * p.heads + h; }

  // Queries, keys and targets, rotated by their place in the mini-batch.
  void take(int64_t from, int64_t tokens, int64_t place) {
    begin = from, count = tokens, position = place;
    if (angles_of != place) {
      const int64_t known = std::min<int64_t>(N, p.period - place), half = d / 2;
      to_lanes<N>(cos, static_cast<const T*>(p.cos) + place * half, half, half, known);
      to_lanes<N>(sin, static_cast<const T*>(p.sin) + place * half, half, half, known);
      angles_of = place;
    }
    const T* qk = static_cast<const T*>(p.qk);
    to_lanes<N>(layer[0].x, pair(qk, begin, 0), 2 * p.heads * d, d, count);
    to_lanes<N>(layer[0].u, pair(qk, begin, 1), 2 * p.heads * d, d, count);
    to_lanes<N>(target, single(static_cast<const T*>(p.v), begin), p.heads * d, d, count);
    rotate<N>(layer[0].x, cos, sin, T(1), d);
    rotate<N>(layer[0].u, cos, sin, T(1), d);
    sweep<T, N>(d, [&](long, long j, int) {
      store(target + j, load(target + j) - load(layer[0].u + j));
    });
    for (int t = 0; t < N; ++t) {
      eta[t] = t < count ? *rate(static_cast<const T*>(p.eta), begin + t) : T(0);
      c[t] = t < count ? static_cast<const T*>(p.c)[position + t] : T(0);
    }
  }

  void multiply(T* out, const T* x, const T* y, long rows) const {
    sweep<T, N>(rows, [&](long, long j, int) { store(out + j, load(x + j) * load(y + j)); });
  }

  void affine(T* z, const Inner<T>& w, int i, const T* x) const {
    const Layer<T, N>& l = layer[i];
    sweep<T, N>(l.rows, [&](long r, long j, int) { store(z + j, V{} + w.bias[i][r]); });
    product<true, N>(z, w.weight[i], l.columns, 1, x, l.rows, l.columns);
  }

  // Gradients of |scale LN(net(k)) + shift - target|^2 / 2 for the outputs of every layer.
  void gradients(const Inner<T>& w, bool curved) {
    affine(layers > 1 ? space : normal, w, 0, layer[0].u);
    Layer<T, N>& last = layer[layers - 1];
    if (layers > 1) {
      gelu_tanh(last.u, last.slope, curved ? last.curvature : nullptr, space, e * N);
      affine(normal, w, 1, last.u);
    }
    normalise<N>(normal, inverse, T(p.epsilon), d);
    sweep<T, N>(d, [&](long r, long j, int) {
      const V off = scale[r] * load(normal + j) + shift[r] - load(target + j);
      store(error + j, off);
      store(space + j, V(scale[r] * off));
    });
    through_norm<N>(last.gradient, along, space, normal, inverse, static_cast<const T*>(nullptr),
                    d);
    if (layers > 1) {
      product<false, N>(last.back, w.weight[1], 1, e, last.gradient, e, d);
      multiply(layer[0].gradient, last.back, last.slope, e);
    }
    for (int i = 0; i < layers; ++i) {
      to_tokens<N>(layer[i].u_tokens, layer[i].u, layer[i].columns);
      scaled<false, N>(layer[i].written, eta, layer[i].gradient, layer[i].rows);
    }
  }

  // Read every token at its query, after its own write; total: gradients of earlier calls, or null.
  void read(const Inner<T>& w, const Inner<T>* total, bool sloped) {
    for (int i = 0; i < layers; ++i) {
      Layer<T, N>& l = layer[i];
      product<false, N>(l.scores, l.u, 1, N, l.x, N, l.columns);
      for (int s = 0; s < N; ++s)
        for (int t = 0; t < N; ++t)
          l.scores[s * N + t] = s <= t ? l.scores[s * N + t] + 1 : T(0);
      product<false, N>(l.moved, l.written, N, 1, l.scores, l.rows, N);
      if (total) {
        affine(space, *total, i, l.x);
        sweep<T, N>(l.rows, [&](long, long j, int) {
          store(l.moved + j, load(l.moved + j) + load(space + j));
        });
      }
      T* z = i + 1 < layers ? space : read_normal;
      affine(z, w, i, l.x);
      sweep<T, N>(l.rows, [&](long, long j, int t) {
        store(z + j, load(z + j) - load(c + t) * load(l.moved + j));
      });
      if (i + 1 < layers) gelu_tanh(layer[1].x, sloped ? layer[1].read_slope : nullptr,
                                    static_cast<T*>(nullptr), z, e * N);
    }
    normalise<N>(read_normal, read_inverse, T(p.epsilon), d);
  }

  void answer(T* y) {
    sweep<T, N>(d, [&](long r, long j, int) {
      store(space + j, load(layer[0].x + j) + scale[r] * load(read_normal + j) + shift[r]);
    });
    transpose(single(y, begin), p.heads * d, space, static_cast<long>(N), d, count);
  }

  // to = kept from + f (total + the sums over this segment); total may be null; to may be from
  void write(const Inner<T>& to, const Inner<T>& from, T kept, const Inner<T>* total, T f) {
    for (int i = 0; i < layers; ++i) {
      const Layer<T, N>& l = layer[i];
      const T* sums = total ? total->weight[i] : nullptr;
      sweep<T, N>(l.rows, [&](long, long j, int) { store(space + j, f * load(l.written + j)); });
      outer<N>(to.weight[i], from.weight[i], kept, sums, f, space, l.u_tokens, l.rows, l.columns,
               count);
      for (long r = 0; r < l.rows; ++r)
        to.bias[i][r] = kept * from.bias[i][r] + (total ? f * total->bias[i][r] : T(0));
      add_sums<N>(to.bias[i], space, l.rows);
    }
  }

  const Problem& p;
  const int64_t d, e;
  const int layers;
  int64_t b = 0, h = 0, begin = 0, count = 0, position = 0, angles_of = -1;
  const T *scale, *shift;
  Arena<T> arena;
  Layer<T, N> layer[2];
  T *target, *error, *normal, *read_normal, *cos, *sin, *space;
  T eta[N], c[N], inverse[N], along[N], read_inverse[N];
};
