// The scan of self-modifying Titans over whole rows, forward and backward, on the cores of a CPU.
// Rows and heads are distributed over threads; the data of one of them stays in the cache.
#include "backward.h"

namespace {

constexpr int TOKENS = 32;  // most tokens of a segment

template <class T, int N>
class Row : public BackwardWorker<T, N> {
  using Base = BackwardWorker<T, N>;
  using Base::arena, Base::b, Base::d_anchor, Base::d_momentum, Base::d_weight, Base::h;
  using Base::initial, Base::p, Base::whole;

 public:
  explicit Row(const Problem& problem) : Base(problem) {
    state.weight.take(arena, whole);
    state.momentum.take(arena, whole);
  }

  void forward(int64_t batch, int64_t head) {
    this->at(batch, head);
    const int64_t place = this->state_offset();
    state.weight.copy(layers_at<T>(p.weight, place), whole);
    state.momentum.copy(layers_at<T>(p.momentum, place), whole);
    const Layers<T> opened = layers_at<T>(p.anchor, place);
    const Layers<T> anchor_out = layers_at<T>(p.anchor_out, place);
    if (anchor_out.first) anchor_out.copy(opened, whole);
    this->open(opened);
    int64_t group = 0;
    for (int64_t i = p.rows[b]; i < p.rows[b + 1]; ++i) {
      const int64_t flags = p.flags[i];
      if (flags & RESET) state.weight.clear(whole), state.momentum.clear(whole);
      if (flags & OPENS) this->open(state.weight);
      if ((flags & KEEP) && anchor_out.first) anchor_out.copy(state.weight, whole);
      if ((flags & GROUP) && p.kept) {
        const State<T> kept = kept_at(group++);
        kept.weight.copy(state.weight, whole);
        kept.momentum.copy(state.momentum, whole);
      }
      if (p.count[i])
        Base::forward(p.begin[i], p.count[i], state, state, static_cast<T*>(p.y));
    }
    layers_at<T>(p.weight_out, place).copy(state.weight, whole);
    layers_at<T>(p.momentum_out, place).copy(state.momentum, whole);
    if (anchor_out.first && p.closes[b]) anchor_out.copy(state.weight, whole);
  }

  void backward(int64_t batch, int64_t head) {
    this->at(batch, head);
    const int64_t place = this->state_offset();
    take(d_weight, p.d_weight_out, place);
    take(d_momentum, p.d_momentum_out, place);
    d_anchor.clear(whole);
    // the returned anchor is the final weight, or the anchor set by an earlier segment, or the one
    // that was passed in
    Layers<T> pending = layers_at<T>(p.d_anchor_out, place);
    if (pending.first && p.closes[b]) d_weight.add(pending, whole), pending.first = nullptr;
    int64_t end = p.rows[b + 1], group = 0;
    for (int64_t i = p.rows[b]; i < end; ++i) group += (p.flags[i] & GROUP) != 0;
    const Layers<T> came = layers_at<T>(p.anchor, place);
    while (end > p.rows[b]) {
      int64_t begin = end - 1;
      while (!(p.flags[begin] & GROUP)) --begin;
      replay(begin, end, --group, came);
      for (int64_t i = end - 1; i >= begin; --i) {
        const int64_t source = sources[i - begin];
        this->open(source < 0 ? came : states[source].weight);
        if (p.count[i]) Base::backward(p.begin[i], p.count[i], states[i - begin]);
        if (p.flags[i] & OPENS) close_period(), d_weight.add(d_anchor, whole), d_anchor.clear(whole);
        if ((p.flags[i] & KEEP) && pending.first)
          d_weight.add(pending, whole), pending.first = nullptr;
        if (p.flags[i] & RESET) d_weight.clear(whole), d_momentum.clear(whole);
      }
      end = begin;
    }
    close_period();
    if (pending.first) d_anchor.add(pending, whole);
    give(p.d_weight, d_weight, place);
    give(p.d_momentum, d_momentum, place);
    give(p.d_anchor, d_anchor, place);
  }

 private:
  State<T> kept_at(int64_t group) const {
    T* start = static_cast<T*>(p.kept) + ((b * p.heads + h) * p.groups + group) * 4 * whole;
    return {{start, start + whole}, {start + 2 * whole, start + 3 * whole}};
  }

  // The states at the start of each segment of a group, and the segment that set its anchor (-1:
  // the state passed in).
  void replay(int64_t begin, int64_t end, int64_t group, const Layers<T>& came) {
    while (static_cast<int64_t>(states.size()) < end - begin) {
      State<T> next;
      next.weight.take(arena, whole), next.momentum.take(arena, whole);
      states.push_back(next);
    }
    sources.assign(end - begin, -1);
    const State<T> kept = kept_at(group);
    states[0].weight.copy(kept.weight, whole), states[0].momentum.copy(kept.momentum, whole);
    int64_t source = -1;
    for (int64_t i = begin; i < end; ++i) {
      State<T>& here = states[i - begin];
      if (i > begin && (p.flags[i] & RESET)) here.weight.clear(whole), here.momentum.clear(whole);
      if (p.flags[i] & OPENS) source = i - begin;
      sources[i - begin] = source;
      if (i + 1 == end) break;
      if (i == begin || (p.flags[i] & OPENS)) this->open(source < 0 ? came : states[source].weight);
      State<T>& next = states[i + 1 - begin];
      if (p.count[i]) {
        Base::forward(p.begin[i], p.count[i], here, next, nullptr);
      } else {
        next.weight.copy(here.weight, whole), next.momentum.copy(here.momentum, whole);
      }
    }
  }

  // The learned start is part of every anchor.
  void close_period() {
    const int64_t place = this->state_offset();
    Layers<T>{static_cast<T*>(p.d_first) + place, static_cast<T*>(p.d_second) + place}.add(
        d_anchor, whole);
  }

  void take(Layers<T>& to, void* const (&from)[2], int64_t place) {
    const Layers<T> given = layers_at<T>(from, place);
    if (given.first) to.copy(given, whole);
    else to.clear(whole);
  }

  void give(void* const (&to)[2], const Layers<T>& from, int64_t place) {
    Layers<T> wanted = layers_at<T>(to, place);
    if (wanted.first) wanted.copy(from, whole);
  }

  State<T> state;
  std::vector<State<T>> states;
  std::vector<int64_t> sources;
};

}  // namespace

extern "C" {
void self_titans_forward_float(const Problem* problem) { over_heads<Row<float, TOKENS>>(*problem, false); }
void self_titans_backward_float(const Problem* problem) { over_heads<Row<float, TOKENS>>(*problem, true); }
void self_titans_forward_double(const Problem* problem) { over_heads<Row<double, TOKENS>>(*problem, false); }
void self_titans_backward_double(const Problem* problem) { over_heads<Row<double, TOKENS>>(*problem, true); }
}
LAYOUT(self_titans, Problem, 2, TOKENS)
