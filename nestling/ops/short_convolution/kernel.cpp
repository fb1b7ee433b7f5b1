// Causal depth-wise convolution along time with SiLU after, forward and backward.
#include <cstddef>

#include "core/native.h"

namespace {

constexpr int64_t TOKENS = 64;  // tokens of one piece of work

struct Problem {
  int64_t batch, length, channels, width, pieces, activation, threads;
  const void *x, *weight, *tail, *bias;  // [B, T, C], [C, W], [B, W - 1, C], [C] or null
  const int64_t* starts;                 // [B, T]: where each token's document starts; or null
  void* y;
  const void* dy;
  void *dx, *d_tail;                     // [B, T, C], [B, W - 1, C]
  void *d_weight;                        // [B, pieces, W + 1, C]: last tap first, then the bias
};

// Some tokens of one row, all channels; values needed from later tokens are recomputed.
template <class T>
class Piece {
  static constexpr int L = Vector<T>::lanes;

 public:
  Piece(const Problem& problem, int64_t item)
      : p(problem), b(item / p.pieces), begin(item % p.pieces * TOKENS),
        end(std::min(p.length, begin + TOKENS)), C((p.channels + L - 1) / L * L),
        w((p.width + 1) * C, T(0)), z(C, T(0)), dz(C, T(0)) {
    for (int64_t c = 0; c < p.channels; ++c) {
      for (int64_t lag = 0; lag < p.width; ++lag)
        w[lag * C + c] = static_cast<const T*>(p.weight)[c * p.width + p.width - 1 - lag];
      if (p.bias) w[p.width * C + c] = static_cast<const T*>(p.bias)[c];
    }
  }

  void forward() {
    for (int64_t t = begin; t < end; ++t) {
      sum(t);
      if (p.activation)
        for (int64_t c = 0; c < C; c += L)
          store(&z[c], load(&z[c]) * sigmoid_of(load(&z[c])));
      std::memcpy(at<T>(p.y, nullptr, t), z.data(), sizeof(T) * p.channels);
    }
  }

  void backward(int64_t item) {
    std::vector<T> dw((p.width + 1) * C, T(0));
    const int64_t first = begin ? begin : 1 - p.width;
    const int64_t last = std::min(p.length, end + p.width - 1);
    for (int64_t t = first; t < end; ++t)
      std::memset(at<T>(p.dx, p.d_tail, t), 0, sizeof(T) * p.channels);
    for (int64_t t = begin; t < last; ++t) {
      std::memcpy(dz.data(), at<const T>(p.dy, nullptr, t), sizeof(T) * p.channels);
      if (p.activation) {
        sum(t);
        for (int64_t c = 0; c < C; c += L) {
          const auto value = load(&z[c]), s = sigmoid_of(value);
          store(&dz[c], load(&dz[c]) * s * (1 + value * (1 - s)));
        }
      }
      const int64_t most = lags(t);
      for (int64_t lag = 0; lag < most; ++lag) {
        const int64_t from = t - lag;
        if (from >= first && from < end) add(at<T>(p.dx, p.d_tail, from), &w[lag * C], dz.data());
        if (t < end) add(&dw[lag * C], at<const T>(p.x, p.tail, from), dz.data());
      }
      if (t < end)
        for (int64_t c = 0; c < p.channels; ++c) dw[p.width * C + c] += dz[c];
    }
    for (int64_t lag = 0; lag <= p.width; ++lag)
      std::memcpy(static_cast<T*>(p.d_weight) + (item * (p.width + 1) + lag) * p.channels,
                  &dw[lag * C], sizeof(T) * p.channels);
  }

 private:
  // the channels of token t; tokens before the first are in the tail
  template <class U, class P>
  U* at(P* x, P* tail, int64_t t) const {
    if (t >= 0) return static_cast<U*>(x) + (b * p.length + t) * p.channels;
    return static_cast<U*>(tail) + (b * (p.width - 1) + p.width - 1 + t) * p.channels;
  }
  template <class U, class P>
  U* at(P* x, std::nullptr_t, int64_t t) const {
    return at<U>(x, x, t);
  }

  // how many taps see a token of t's document
  int64_t lags(int64_t t) const {
    if (!p.starts) return p.width;
    return std::max<int64_t>(1, std::min(p.width, t - p.starts[b * p.length + t] + 1));
  }

  void add(T* __restrict out, const T* __restrict x, const T* __restrict y) const {
    for (int64_t c = 0; c < p.channels; ++c) out[c] += x[c] * y[c];
  }

  void sum(int64_t t) {
    std::memcpy(z.data(), &w[p.width * C], sizeof(T) * C);
    const int64_t most = lags(t);
    for (int64_t lag = 0; lag < most; ++lag)
      add(z.data(), &w[lag * C], at<const T>(p.x, p.tail, t - lag));
  }

  const Problem& p;
  const int64_t b, begin, end, C;
  std::vector<T> w, z, dz;  // w: [W + 1][C], the tap of the token itself first, then the bias
};

template <class T>
void run(const Problem& p, bool backward) {
  share_out(p.batch * p.pieces, p.threads, [&](int64_t item, int64_t) {
    Piece<T> piece(p, item);
    if (backward) piece.backward(item);
    else piece.forward();
  });
}

}  // namespace

extern "C" {
void short_convolution_forward_float(const Problem* p) { run<float>(*p, false); }
void short_convolution_backward_float(const Problem* p) { run<float>(*p, true); }
void short_convolution_forward_double(const Problem* p) { run<double>(*p, false); }
void short_convolution_backward_double(const Problem* p) { run<double>(*p, true); }
}
LAYOUT(short_convolution, Problem, 1, TOKENS)
