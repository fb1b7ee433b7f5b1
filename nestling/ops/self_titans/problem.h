// The arguments of a call, and the working memory of one worker.
#pragma once
#include "ops/momentum_gated_delta_rule/layer.h"

enum Flag : int64_t { RESET = 1, OPENS = 2, KEEP = 4, GROUP = 8 };

// The layout of one call for ctypes; pointers may be null where the comments say so.
struct Problem {
  int64_t batch, heads, memories, width, hidden, length;
  int64_t groups, threads, dot;
  double epsilon, clip, projection_clip, eta_max;         // clip: of the last memory
  const int64_t *rows, *begin, *count, *flags, *closes;  // segments of row b: rows[b] to rows[b+1]
  const void *projected, *mu;                            // q, k, v [B, T, 3, H, d]; mu [B, T, H]
  const void *first, *second;                            // learned initial states [H, M, ...]
  const void *eta_weight, *eta_bias, *alpha_weight, *alpha_bias;
  void *anchor[2], *weight[2], *momentum[2];             // the state that comes in [B, H, M, ...]
  void *anchor_out[2], *weight_out[2], *momentum_out[2];
  void *y;                                               // [B, T, H, d]
  void *kept;                                            // [B, H, groups, state]; null: no backward
  // the backward pass; gradients of the returned state may be null
  const void *dy;
  void *d_anchor_out[2], *d_weight_out[2], *d_momentum_out[2];
  void *d_projected, *dmu;
  void *d_first, *d_second;                              // [B, H, M, ...], zero when given
  void *d_eta_weight, *d_eta_bias, *d_alpha_weight, *d_alpha_bias;  // [B, H, *], zero when given
  void *d_anchor[2], *d_weight[2], *d_momentum[2];       // null: not wanted
};

// One tensor for each layer of all memories of one row and head: [M][E][d] and [M][d][E].
template <class T>
struct Layers {
  T *first, *second;

  void take(Arena<T>& arena, int64_t size) { first = arena.take(size), second = arena.take(size); }
  void copy(const Layers& other, int64_t size) const {
    std::memcpy(first, other.first, sizeof(T) * size);
    std::memcpy(second, other.second, sizeof(T) * size);
  }
  void clear(int64_t size) const {
    std::memset(first, 0, sizeof(T) * size);
    std::memset(second, 0, sizeof(T) * size);
  }
  void add(const Layers& other, int64_t size) const {
    for (int64_t i = 0; i < size; ++i) first[i] += other.first[i];
    for (int64_t i = 0; i < size; ++i) second[i] += other.second[i];
  }
};

template <class T>
inline Layers<T> layers_at(void* const (&pointers)[2], int64_t offset) {
  auto at = [&](void* p) { return p ? static_cast<T*>(p) + offset : nullptr; };
  return {at(pointers[0]), at(pointers[1])};
}
