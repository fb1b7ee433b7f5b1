// The scan of test-time training over whole rows, forward and backward, on the cores of a CPU.
// Rows and heads are distributed over threads; each processes its mini-batches in sequence.
#include "backward.h"

namespace {

constexpr int TOKENS = 16;  // most tokens of a segment

template <class T, int N>
class Row : public BackwardWorker<T, N> {
  using Base = BackwardWorker<T, N>;
  using Base::arena, Base::b, Base::c, Base::d, Base::d_scale, Base::d_shift, Base::d_sums;
  using Base::d_weights, Base::dc, Base::h, Base::p, Base::summed;

 public:
  explicit Row(const Problem& problem) : Base(problem), bytes(sizeof(T) * p.size) {
    model = {arena.take(p.size), arena.take(p.size)};
  }

  void forward(int64_t batch, int64_t head) {
    start(batch, head);
    const int64_t place = (b * p.heads + h) * p.size;
    std::memcpy(model.weights, static_cast<const T*>(p.anchor) + place, bytes);
    std::memcpy(model.sums, static_cast<const T*>(p.total) + place, bytes);
    int64_t group = 0;
    for (int64_t i = first; i < p.rows[b + 1]; ++i) {
      if (p.flags[i] & RESET) std::memcpy(model.weights, initial(), bytes);
      if ((p.flags[i] & GROUP) && p.kept) std::memcpy(kept_at(group++), model.weights, bytes);
      segment(i, model, model, static_cast<T*>(p.y));
    }
    std::memcpy(static_cast<T*>(p.anchor_out) + place, model.weights, bytes);
    T* sums = static_cast<T*>(p.total_out) + place;
    if (positions.back()) std::memcpy(sums, model.sums, bytes);
    else std::memset(sums, 0, bytes);
  }

  void backward(int64_t batch, int64_t head) {
    start(batch, head);
    const int64_t item = b * p.heads + h, place = item * p.size;
    take(d_weights, p.d_anchor_out, place);
    take(d_sums, p.d_total_out, place);
    summed = p.d_total_out && positions.back();
    std::fill(dc.begin(), dc.end(), T(0));
    for (T* x : {d_scale, d_shift}) std::memset(x, 0, sizeof(T) * d * N);
    int64_t end = p.rows[b + 1], group = 0;
    for (int64_t i = first; i < end; ++i) group += (p.flags[i] & GROUP) != 0;
    while (end > first) {
      int64_t begin = end - 1;
      while (!(p.flags[begin] & GROUP)) --begin;
      replay(begin, end, --group, place);
      for (int64_t i = end - 1; i >= begin; --i) segment_back(i, states[i - begin], place);
      end = begin;
    }
    std::memcpy(static_cast<T*>(p.d_anchor) + place, d_weights, bytes);
    if (summed) std::memcpy(static_cast<T*>(p.d_total) + place, d_sums, bytes);
    else std::memset(static_cast<T*>(p.d_total) + place, 0, bytes);
    std::memcpy(static_cast<T*>(p.dc) + item * p.period, dc.data(), sizeof(T) * p.period);
    give_sum(p.d_scale, item, d_scale);
    give_sum(p.d_shift, item, d_shift);
  }

 private:
  // The weights at the start of a mini-batch, and its gradients so far, which are undefined for the
  // first segment of a mini-batch.
  struct Model {
    T *weights, *sums;
  };

  // Find the place of each segment of the row in its mini-batch, and the end of the row.
  void start(int64_t batch, int64_t head) {
    this->at(batch, head);
    first = p.rows[b];
    positions.clear();
    int64_t position = p.seen[b] % p.period;
    for (int64_t i = first; i < p.rows[b + 1]; ++i) {
      if (p.flags[i] & RESET) position = 0;
      positions.push_back(position);
      position = (position + p.count[i]) % p.period;
    }
    positions.push_back(position);
  }

  const T* initial() const { return static_cast<const T*>(p.initial) + h * p.size; }
  T* kept_at(int64_t group) const {
    return static_cast<T*>(p.kept) + ((b * p.heads + h) * p.groups + group) * p.size;
  }
  bool closes(int64_t i) const {
    return p.count[i] && positions[i - first] + p.count[i] == p.period;
  }

  // From the model before a segment to the one after it; y is null if nothing is read.
  void segment(int64_t i, const Model& from, const Model& to, T* y) {
    if (!p.count[i]) {
      copy(to.weights, from.weights), copy(to.sums, from.sums);
      return;
    }
    const int64_t position = positions[i - first];
    const Inner<T> w = this->inner(from.weights), sums = this->inner(from.sums);
    const Inner<T>* total = position ? &sums : nullptr;
    this->take(p.begin[i], p.count[i], position);
    this->gradients(w, false);
    if (y) this->read(w, total, false), this->answer(y);
    if (closes(i)) {
      this->write(this->inner(to.weights), w, T(1), total, -static_cast<const T*>(p.c)[p.period - 1]);
    } else {
      copy(to.weights, from.weights);
      this->write(this->inner(to.sums), total ? sums : w, T(total ? 1 : 0), nullptr, T(1));
    }
  }

  void segment_back(int64_t i, const Model& from, int64_t place) {
    if (p.count[i]) {
      const int64_t position = positions[i - first];
      const Inner<T> sums = this->inner(from.sums);
      this->take(p.begin[i], p.count[i], position);
      if (closes(i)) summed = false;
      Base::backward(this->inner(from.weights), position ? &sums : nullptr, closes(i));
    }
    if (p.flags[i] & OPENS) summed = false;
    if (p.flags[i] & RESET) {
      T* learned = static_cast<T*>(p.d_initial) + place;
      for (int64_t j = 0; j < p.size; ++j) learned[j] += d_weights[j];
      std::memset(d_weights, 0, bytes);
    }
  }

  // The models at the start of each segment of a group.
  void replay(int64_t begin, int64_t end, int64_t group, int64_t place) {
    while (static_cast<int64_t>(states.size()) < end - begin)
      states.push_back({states.empty() ? nullptr : arena.take(p.size), arena.take(p.size)});
    states[0].weights = kept_at(group);
    if (positions[begin - first])
      copy(states[0].sums, static_cast<const T*>(p.total) + place);
    for (int64_t i = begin; i + 1 < end; ++i) {
      const Model &here = states[i - begin], &next = states[i + 1 - begin];
      segment(i, here, next, nullptr);
      if (p.flags[i + 1] & RESET) copy(next.weights, initial());
    }
  }

  void copy(T* to, const T* from) const {
    if (to != from) std::memcpy(to, from, bytes);
  }
  void take(T* to, const void* from, int64_t place) const {
    if (from) std::memcpy(to, static_cast<const T*>(from) + place, bytes);
    else std::memset(to, 0, bytes);
  }
  using Base::take;

  void give_sum(void* to, int64_t item, const T* lanes) const {
    add_sums<N>(static_cast<T*>(to) + item * d, lanes, d);
  }

  const int64_t bytes;
  int64_t first = 0;
  Model model;
  std::vector<Model> states;
  std::vector<int64_t> positions;
};

}  // namespace

extern "C" {
void ttt_forward_float(const Problem* problem) { over_heads<Row<float, TOKENS>>(*problem, false); }
void ttt_backward_float(const Problem* problem) { over_heads<Row<float, TOKENS>>(*problem, true); }
void ttt_forward_double(const Problem* problem) { over_heads<Row<double, TOKENS>>(*problem, false); }
void ttt_backward_double(const Problem* problem) { over_heads<Row<double, TOKENS>>(*problem, true); }
}
LAYOUT(ttt, Problem, 1, TOKENS)
