// Causal depth-wise convolution along time with SiLU after, forward and backward.
#include "core/native.h"

namespace {

constexpr int64_t BLOCK = 64;  // channels that one piece of work holds

struct Problem {
  int64_t batch, length, channels, width, activation, threads;
  const void *x, *tail, *weight, *bias;  // [B, T, C], [B, W - 1, C], [C, W], [C] or null
  const int64_t* starts;                 // [B, T]: where each token's document starts; or null
  void* y;
  const void* dy;
  void *dx, *d_tail, *d_weight, *d_bias;  // [B, T, C], [B, W - 1, C], [B, W, C], [B, C]; zero
};

template <class T>
struct Block {
  const Problem& p;
  int64_t b, begin, count;  // row, first channel, channels

  const T* input(int64_t t) const { return place<const T>(p.x, p.tail, t); }
  T* d_input(int64_t t) const { return place<T>(p.dx, p.d_tail, t); }

  // the channels of token t; those before the first lie in the tail
  template <class U, class P>
  U* place(P* x, P* tail, int64_t t) const {
    if (t >= 0) return static_cast<U*>(x) + (b * p.length + t) * p.channels + begin;
    return static_cast<U*>(tail) + (b * (p.width - 1) + p.width - 1 + t) * p.channels + begin;
  }

  int64_t lags(int64_t t) const {
    if (!p.starts) return p.width;
    return std::max<int64_t>(1, std::min(p.width, t - p.starts[b * p.length + t] + 1));
  }

  // weights of this block, [W][BLOCK], and the bias
  std::vector<T> weights() const {
    std::vector<T> w((p.width + 1) * BLOCK, T(0));
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t lag = 0; lag < p.width; ++lag)
        w[lag * BLOCK + c] =
            static_cast<const T*>(p.weight)[(begin + c) * p.width + p.width - 1 - lag];
      if (p.bias) w[p.width * BLOCK + c] = static_cast<const T*>(p.bias)[begin + c];
    }
    return w;
  }

  void sum(T* z, const std::vector<T>& w, int64_t t) const {
    std::memcpy(z, w.data() + p.width * BLOCK, sizeof(T) * BLOCK);
    const int64_t most = lags(t);
    for (int64_t lag = 0; lag < most; ++lag) {
      const T *x = input(t - lag), *factor = w.data() + lag * BLOCK;
      if (count == BLOCK)
        for (int64_t c = 0; c < BLOCK; ++c) z[c] += factor[c] * x[c];
      else
        for (int64_t c = 0; c < count; ++c) z[c] += factor[c] * x[c];
    }
  }

  void forward() const {
    constexpr int L = Vector<T>::lanes;
    const std::vector<T> w = weights();
    T z[BLOCK];
    for (int64_t t = 0; t < p.length; ++t) {
      sum(z, w, t);
      if (p.activation)
        for (int64_t c = 0; c < BLOCK; c += L) store(z + c, load(z + c) * sigmoid_of(load(z + c)));
      std::memcpy(place<T>(p.y, p.y, t), z, sizeof(T) * count);
    }
  }

  void backward() const {
    constexpr int L = Vector<T>::lanes;
    const std::vector<T> w = weights();
    std::vector<T> dw((p.width + 1) * BLOCK, T(0));
    T z[BLOCK], dz[BLOCK] = {};
    for (int64_t t = 0; t < p.length; ++t) {
      std::memcpy(dz, place<const T>(p.dy, p.dy, t), sizeof(T) * count);
      if (p.activation) {
        sum(z, w, t);
        for (int64_t c = 0; c < BLOCK; c += L) {
          const auto value = load(z + c), s = sigmoid_of(value);
          store(dz + c, load(dz + c) * s * (1 + value * (1 - s)));
        }
      }
      const int64_t most = lags(t);
      for (int64_t lag = 0; lag < most; ++lag) {
        const T *x = input(t - lag), *factor = w.data() + lag * BLOCK;
        T *dx = d_input(t - lag), *d_factor = dw.data() + lag * BLOCK;
        for (int64_t c = 0; c < count; ++c) {
          dx[c] += factor[c] * dz[c];
          d_factor[c] += x[c] * dz[c];
        }
      }
      for (int64_t c = 0; c < count; ++c) dw[p.width * BLOCK + c] += dz[c];
    }
    for (int64_t lag = 0; lag < p.width; ++lag)
      std::memcpy(static_cast<T*>(p.d_weight) + (b * p.width + lag) * p.channels + begin,
                  dw.data() + lag * BLOCK, sizeof(T) * count);
    if (p.d_bias)
      std::memcpy(static_cast<T*>(p.d_bias) + b * p.channels + begin,
                  dw.data() + p.width * BLOCK, sizeof(T) * count);
  }
};

template <class T>
void run(const Problem& p, bool backward) {
  const int64_t blocks = (p.channels + BLOCK - 1) / BLOCK;
  share_out(p.batch * blocks, p.threads, [&](int64_t item, int64_t) {
    const int64_t begin = item % blocks * BLOCK;
    const Block<T> block{p, item / blocks, begin, std::min(BLOCK, p.channels - begin)};
    if (backward) block.backward();
    else block.forward();
  });
}

}  // namespace

extern "C" {
void short_convolution_forward_float(const Problem* p) { run<float>(*p, false); }
void short_convolution_backward_float(const Problem* p) { run<float>(*p, true); }
void short_convolution_forward_double(const Problem* p) { run<double>(*p, false); }
void short_convolution_backward_double(const Problem* p) { run<double>(*p, true); }
}
