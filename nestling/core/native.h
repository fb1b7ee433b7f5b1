// Shared by all compiled sources: vectors, memory, exponentials, threads.
#pragma once
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

// Size and number of the target's vector registers: a longer vector would take several of them, and
// values that do not fit are spilled to memory, at a tenth of the speed.
#if defined(__AVX512F__)
constexpr int BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int BYTES = 16, REGISTERS = 32;
#else
constexpr int BYTES = 16, REGISTERS = 16;
#endif

// Checked by the caller before its first call (core/bridge.py): the size of the struct passed to a
// source, the version of the meaning of its fields, to be raised with every change, and the largest
// number of tokens in a piece of work (0: not cut along time).
#define LAYOUT(name, Struct, number, most)                     \
  extern "C" int64_t name##_bytes() { return sizeof(Struct); } \
  extern "C" int64_t name##_version() { return number; }       \
  extern "C" int64_t name##_tokens() { return most; }

template <class T>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(BYTES), aligned(4), may_alias));
  typedef int32_t places __attribute__((vector_size(BYTES)));
  static constexpr int lanes = BYTES / sizeof(float);
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(BYTES), aligned(8), may_alias));
  typedef int64_t places __attribute__((vector_size(BYTES)));
  static constexpr int lanes = BYTES / sizeof(double);
};

template <class T>
inline typename Vector<T>::type load(const T* x) {
  return *reinterpret_cast<const typename Vector<T>::type*>(x);
}
template <class T>
inline void store(T* x, typename Vector<T>::type value) {
  *reinterpret_cast<typename Vector<T>::type*>(x) = value;
}

// Memory handed out piece by piece, each at the start of a cache line.
template <class T>
class Arena {
 public:
  T* take(int64_t count) {
    const int64_t size = (count * sizeof(T) + 63) / 64 * 64 / sizeof(T);
    blocks_.emplace_back(new T[size + 64 / sizeof(T)]());
    const auto address = reinterpret_cast<uintptr_t>(blocks_.back().get());
    return reinterpret_cast<T*>((address + 63) / 64 * 64);
  }

 private:
  std::vector<std::unique_ptr<T[]>> blocks_;
};

template <class T>
inline T sum_of(typename Vector<T>::type x) {
  constexpr int L = Vector<T>::lanes;
#pragma GCC unroll 4
  for (int half = L / 2; half; half /= 2) {
    typename Vector<T>::places other;
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) other[i] = i ^ half;
    x += __builtin_shuffle(x, other);
  }
  return x[0];
}

// exp(x) for x <= 0 by Cephes' polynomial; below -87 that of -87
inline Vector<float>::type exp_of_negative(Vector<float>::type x) {
  typedef Vector<float>::type V;
  typedef int32_t I __attribute__((vector_size(BYTES)));
  x = x < -87.0f ? V{} - 87.0f : x;
  const I whole = __builtin_convertvector(x * 1.44269504f - 0.5f, I);
  const V n = __builtin_convertvector(whole, V);
  const V f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = V{} + 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  return p * reinterpret_cast<V>((whole + 127) << 23);
}

inline Vector<double>::type exp_of_negative(Vector<double>::type x) {
  Vector<double>::type y;
  for (int i = 0; i < Vector<double>::lanes; ++i) y[i] = std::exp(x[i]);
  return y;
}

template <class V>
inline V sigmoid_of(V x) {
  const V zero = {};
  const V e = exp_of_negative(V(x < zero ? x : -x));
  const V small = e / (1 + e);
  return x < zero ? small : 1 - small;
}

template <class T>
inline T sigmoid(T x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}

// Run part(worker) on at most `threads` threads, this one included. If torch has loaded GNU OpenMP,
// they are torch's own team: other threads would compete with it, as it spins for a while after
// each operation, and starting them would take longer than a small piece of work.
template <class Part>
inline void together(int64_t threads, const Part& part) {
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  static const Parallel team = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  struct Call {
    const Part& part;
    std::atomic<int64_t> joined;
    static void join(void* call) {
      Call* self = static_cast<Call*>(call);
      self->part(self->joined++);
    }
  } call{part, {0}};
  if (team) return team(Call::join, &call, static_cast<unsigned>(threads), 0);
  std::vector<std::thread> others;
  for (int64_t i = 1; i < threads; ++i) others.emplace_back(Call::join, &call);
  Call::join(&call);
  for (std::thread& thread : others) thread.join();
}

// Run work(item, worker) for every item below count, on at most `threads` threads.
template <class Work>
inline void share_out(int64_t count, int64_t threads, const Work& work) {
  std::atomic<int64_t> next{0};
  auto loop = [&](int64_t worker) {
    for (int64_t item = next++; item < count; item = next++) work(item, worker);
  };
  if (std::min(threads, count) <= 1) return loop(0);
  together(std::min(threads, count), loop);
}

// Process every row and head of a problem, forward or backward; each worker has its own Row.
template <class Row, class Problem>
void over_heads(const Problem& problem, bool backward) {
  std::vector<std::unique_ptr<Row>> rows(problem.threads);
  share_out(problem.batch * problem.heads, problem.threads, [&](int64_t item, int64_t worker) {
    if (!rows[worker]) rows[worker] = std::make_unique<Row>(problem);
    const int64_t batch = item / problem.heads, head = item % problem.heads;
    if (backward) rows[worker]->backward(batch, head);
    else rows[worker]->forward(batch, head);
  });
}
