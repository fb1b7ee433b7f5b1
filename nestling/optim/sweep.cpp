// Squared norms of many gradients, and steps of momenta and weights; each tensor is read once.
#include "core/native.h"

namespace {

constexpr int64_t PIECE = 1 << 15;  // elements of one piece of work, which is at least a row
constexpr int64_t SHORT = 1 << 10;  // elements summed in their own type

enum Kind : int64_t { UNIT, SOFT, CLAMP, NONE };  // how the strength of forgetting is bounded

struct Problem {
  int64_t count, threads;
  double alpha, eta, sign, kept, lr, smallest;  // kept: share of the weights; smallest: of a square
  const int64_t* size;  // of each tensor
  const void* const* g;
  double* squares;  // of each gradient; written by `look`, read by `write`
  const int64_t *width, *kind;  // of each tensor; width: of a row, 0: scalar layout
  void *const *m, *const *p;
};

struct Piece {
  int64_t tensor, begin, end;
};

template <class T>
inline double total(typename Vector<T>::type x) {
  double value = 0;
  for (int i = 0; i < Vector<T>::lanes; ++i) value += x[i];
  return value;
}

// g.g; four parallel sums, in T over SHORT elements and in double beyond
template <class T>
double square(const T* g, int64_t count) {
  typedef typename Vector<T>::type V;
  constexpr int L = Vector<T>::lanes;
  double found = 0;
  int64_t i = 0;
  while (i + 4 * L <= count) {
    V a = {}, b = {}, c = {}, d = {};
    for (const int64_t end = std::min(count, i + SHORT); i + 4 * L <= end; i += 4 * L) {
      const V w = load(g + i), x = load(g + i + L), y = load(g + i + 2 * L), z = load(g + i + 3 * L);
      a += w * w, b += x * x, c += y * y, d += z * z;
    }
    found += total<T>((a + b) + (c + d));
  }
  for (; i < count; ++i) found += static_cast<double>(g[i]) * g[i];
  return found;
}

// g.g and m.g, likewise
template <class T>
void inner(const T* m, const T* g, int64_t count, double& square, double& along) {
  typedef typename Vector<T>::type V;
  constexpr int L = Vector<T>::lanes;
  square = along = 0;
  int64_t i = 0;
  while (i + 2 * L <= count) {
    V a = {}, b = {}, c = {}, d = {};
    for (const int64_t end = std::min(count, i + SHORT); i + 2 * L <= end; i += 2 * L) {
      const V x = load(g + i), y = load(g + i + L);
      a += x * x, b += y * y, c += x * load(m + i), d += y * load(m + i + L);
    }
    square += total<T>(a + b), along += total<T>(c + d);
  }
  for (; i < count; ++i) {
    square += static_cast<double>(g[i]) * g[i];
    along += static_cast<double>(m[i]) * g[i];
  }
}

// m <- keep m + take g, p <- kept p - lr m
template <class T>
void step(T* __restrict p, T* __restrict m, const T* __restrict g, int64_t count, T keep, T take,
          T kept, T lr) {
  for (int64_t i = 0; i < count; ++i) {
    const T now = keep * m[i] + take * g[i];
    m[i] = now;
    p[i] = kept * p[i] - lr * now;
  }
}

// k for a gradient with this squared norm; NaN if that is NaN
double strength(const Problem& p, int64_t kind, double square) {
  if (kind == UNIT) return p.eta / (square + p.smallest);
  if (kind == SOFT) return p.eta / ((1 + std::sqrt(square)) * (1 + std::sqrt(square)));
  if (kind == NONE) return p.eta;
  const double most = p.alpha / (square + p.smallest);
  return most > p.eta ? p.eta : most;
}

template <class T>
void write(const Problem& p, const Piece& piece) {
  const int64_t t = piece.tensor, kind = p.kind[t];
  const T* g = static_cast<const T*>(p.g[t]);
  T *m = static_cast<T*>(p.m[t]), *w = static_cast<T*>(p.p[t]);
  if (!p.width[t]) {
    const double keep = p.alpha - strength(p, kind, p.squares[t]) * p.squares[t];
    const int64_t i = piece.begin;
    step<T>(w + i, m + i, g + i, piece.end - i, keep, p.sign, p.kept, p.lr);
    return;
  }
  for (int64_t i = piece.begin; i < piece.end; i += p.width[t]) {
    double square, along;
    inner(m + i, g + i, p.width[t], square, along);
    const double take = p.sign - strength(p, kind, square) * along;
    step<T>(w + i, m + i, g + i, p.width[t], p.alpha, take, p.kept, p.lr);
  }
}

std::vector<Piece> pieces(const Problem& p) {
  std::vector<Piece> found;
  for (int64_t t = 0; t < p.count; ++t) {
    const int64_t width = p.width ? std::max<int64_t>(1, p.width[t]) : 1;
    const int64_t length = std::max<int64_t>(1, PIECE / width) * width;
    for (int64_t i = 0; i < p.size[t]; i += length)
      found.push_back({t, i, std::min(p.size[t], i + length)});
  }
  return found;
}

template <class T>
void look(const Problem& p) {
  const std::vector<Piece> work = pieces(p);
  std::vector<double> parts(work.size());
  share_out(work.size(), p.threads, [&](int64_t item, int64_t) {
    const Piece& piece = work[item];
    const T* g = static_cast<const T*>(p.g[piece.tensor]) + piece.begin;
    parts[item] = square(g, piece.end - piece.begin);
  });
  // in the order of the pieces, not of the threads: bit-identical every time
  for (size_t item = 0; item < work.size(); ++item) p.squares[work[item].tensor] += parts[item];
}

template <class T>
void write(const Problem& p) {
  const std::vector<Piece> work = pieces(p);
  share_out(work.size(), p.threads, [&](int64_t item, int64_t) { write<T>(p, work[item]); });
}

}  // namespace

extern "C" {
void sweep_look_float(const Problem* p) { look<float>(*p); }
void sweep_look_double(const Problem* p) { look<double>(*p); }
void sweep_write_float(const Problem* p) { write<float>(*p); }
void sweep_write_double(const Problem* p) { write<double>(*p); }
}
LAYOUT(sweep, Problem, 1, 0)
