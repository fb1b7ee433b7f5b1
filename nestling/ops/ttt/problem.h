// The arguments of a call, and the parts of an inner model.
#pragma once
#include "ops/momentum_gated_delta_rule/lanes.h"

enum Flag : int64_t { RESET = 1, OPENS = 2, GROUP = 8 };  // as in ops/self_titans/cuts.py

// The layout of one call for ctypes. An inner model of one head is `size` contiguous values: for
// each layer its weight, then its bias.
struct Problem {
  int64_t batch, heads, width, hidden, size, length;   // hidden 0: one layer
  int64_t period, groups, threads;
  double epsilon;
  const int64_t *rows, *begin, *count, *flags, *seen;  // segments of row b: rows[b] to rows[b+1]
  const void *qk, *v, *eta;                            // [B, T, 2, H, d], [B, T, H, d], [B, T, H]
  const void *c, *cos, *sin;                           // [period], [period, d / 2] twice
  const void *scale, *shift, *initial;                 // [H, d] twice, [H, size]
  const void *anchor, *total;                          // [B, H, size], at the start of the call
  void *anchor_out, *total_out, *y;                    // y [B, T, H, d], zero when given
  void *kept;                                          // [B, H, groups, size]; null: no backward
  // the backward pass; gradients of the returned state may be null
  const void *dy, *d_anchor_out, *d_total_out;
  void *dqk, *dv, *d_eta;                              // zero when given
  void *dc, *d_scale, *d_shift, *d_initial;            // [B, H, *], zero when given
  void *d_anchor, *d_total;
};

// Weights and biases of the layers of one inner model, or sums of gradients for them.
template <class T>
struct Inner {
  T *weight[2], *bias[2];

  static Inner at(T* start, int64_t width, int64_t hidden) {
    if (!hidden) return {{start, nullptr}, {start + width * width, nullptr}};
    T *first_bias = start + width * hidden, *second = first_bias + hidden;
    return {{start, second}, {first_bias, second + width * hidden}};
  }
};
