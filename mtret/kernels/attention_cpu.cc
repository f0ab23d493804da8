// Softmax attention within the segments of packed rows, forward and backward, for the CPU that compiles this file.
//
// The tokens of one segment are gathered, so no score between two segments is ever made, and the scores of one segment
// and head stay in the core's cache. Within a segment: for each tile of queries the scores of all keys, laid out
// [key, query] so that a vector holds queries and the softmax runs down the keys. The backward pass makes the scores
// again (FlashAttention: Dao et al., 2205.14135). Each (row, head) is computed by one thread in one order: results do
// not depend on the number of threads.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kBlock = 8;
#elif defined(__AVX__)
constexpr int kLanes = 8, kBlock = 4;  // half the registers, half the block
#else
constexpr int kLanes = 4, kBlock = 8;
#endif
constexpr int kTile = 2 * kLanes;  // queries, or features, at a time

// Loads and stores through them need no alignment.
typedef float Floats __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes), aligned(4)));

inline Floats load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
inline void store(float* to, Floats x) { *reinterpret_cast<Floats*>(to) = x; }
inline Floats all(float x) { return x - Floats{}; }

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// out[m, :] (+)= sum over i of a[m, i] * b[i, :], for kBlock values of m and `Vectors` vectors of columns.
template <int Vectors>
inline void multiply_block(const float* a, int64_t a_m, int64_t a_i, const float* b, int64_t b_i, int64_t inner,
                           float* out, int64_t out_m, bool add) {
  Floats sum[kBlock][Vectors];
  for (int m = 0; m < kBlock; ++m)
    for (int v = 0; v < Vectors; ++v) sum[m][v] = add ? load(out + m * out_m + v * kLanes) : Floats{};
  for (int64_t i = 0; i < inner; ++i) {
    Floats column[Vectors];
    for (int v = 0; v < Vectors; ++v) column[v] = load(b + i * b_i + v * kLanes);
    for (int m = 0; m < kBlock; ++m) {
      const Floats factor = all(a[m * a_m + i * a_i]);
      for (int v = 0; v < Vectors; ++v) sum[m][v] += factor * column[v];
    }
  }
  for (int m = 0; m < kBlock; ++m)
    for (int v = 0; v < Vectors; ++v) store(out + m * out_m + v * kLanes, sum[m][v]);
}

// The same for `rows` values of m, rounded up to whole blocks: a and out must have room for those.
template <int Vectors>
void multiply(const float* a, int64_t a_m, int64_t a_i, const float* b, int64_t b_i, int64_t inner, float* out,
              int64_t out_m, int64_t rows, bool add = false) {
  for (int64_t m = 0; m < rows; m += kBlock)
    multiply_block<Vectors>(a + m * a_m, a_m, a_i, b, b_i, inner, out + m * out_m, out_m, add);
}

// out[m, :] (+)= ..., for `width` columns, a multiple of kTile.
void multiply_wide(const float* a, int64_t a_m, int64_t a_i, const float* b, int64_t b_i, int64_t inner, float* out,
                   int64_t out_m, int64_t rows, int64_t width, bool add = false) {
  for (int64_t column = 0; column < width; column += kTile)
    multiply<2>(a, a_m, a_i, b + column, b_i, inner, out + column, out_m, rows, add);
}

// Within two units in the last place between -87 and 0; 0 below, which is all that a softmax asks for.
inline Floats exponential(Floats x) {
  const Floats round = all(12582912.0f);  // 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits
  const Floats shifted = x * 1.44269504f + round;
  const Floats whole = shifted - round;
  const Floats rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Floats y = all(1.0f / 5040);
  for (float factor : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) y = y * rest + factor;
  const Ints scaled = (Ints)y + ((Ints)shifted << 23);
  const Floats found = x < -87.0f ? Floats{} : (Floats)scaled;
  return x == x ? found : x;  // not a number stays none
}

// As `masks.dropout_mask`: MurmurHash3's finaliser, twice.
inline Words mix(Words x) {
  x = (x ^ (x >> 16)) * 0x85EBCA6Bu;
  x = (x ^ (x >> 13)) * 0xC2B2AE35u;
  return x ^ (x >> 16);
}

struct Shape {
  int64_t rows, length, heads, features;
  int64_t window;         // the furthest key that a query sees; negative: any
  uint32_t threshold;     // of dropout: words below it are dropped; 0: none
  float kept_scale;       // 1 / (1 - rate)
  int64_t stride() const { return heads * features; }
  int64_t padded() const { return round_up(features, kTile); }
};

// The tokens of one segment of a row, in order, and the arrays that one thread works in.
struct Segment {
  std::vector<int32_t> place;  // of each token in the row
  int64_t size() const { return static_cast<int64_t>(place.size()); }
  int64_t padded() const { return round_up(size(), kTile); }
};

// What a row consists of. A segment need not lie in one piece.
void split(const int32_t* segment, int64_t length, std::vector<Segment>& found) {
  struct Piece {
    int32_t id;
    int32_t start, end;
  };
  std::vector<Piece> pieces;
  for (int32_t i = 0; i < length; ++i) {
    if (i == 0 || segment[i] != segment[i - 1]) pieces.push_back({segment[i], i, i});
    pieces.back().end = i + 1;
  }
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.id < b.id; });
  found.clear();
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i == 0 || pieces[i].id != pieces[i - 1].id) found.emplace_back();
    for (int32_t place = pieces[i].start; place < pieces[i].end; ++place) found.back().place.push_back(place);
  }
}

// Memory that is kept from call to call and starts at a cache line.
class Scratch {
 public:
  float* take(int64_t count) {
    const int64_t start = used_;
    used_ += round_up(count, 16);
    return base_ + start;
  }
  void prepare(int64_t count) {
    used_ = 0;
    if (count <= size_) return;
    std::free(base_);
    base_ = static_cast<float*>(std::aligned_alloc(64, round_up(count * 4, 64)));
    size_ = base_ ? count : 0;
  }
  bool ready() const { return base_ != nullptr; }
  ~Scratch() { std::free(base_); }

 private:
  float* base_ = nullptr;
  int64_t size_ = 0, used_ = 0;
};

// Rows of `from` that belong to the segment, times `scale`, as [token, feature]; what is padded is zero.
void gather(const float* from, const Segment& segment, const Shape& shape, float scale, float* to) {
  const int64_t width = shape.padded();
  for (int64_t i = 0; i < segment.padded(); ++i) {
    float* row = to + i * width;
    if (i >= segment.size()) {
      std::memset(row, 0, width * 4);
      continue;
    }
    const float* source = from + segment.place[i] * shape.stride();
    for (int64_t f = 0; f < shape.features; ++f) row[f] = source[f] * scale;
    for (int64_t f = shape.features; f < width; ++f) row[f] = 0;
  }
}

void scatter(const float* from, const Segment& segment, int64_t first, int64_t count, const Shape& shape, float* to) {
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(to + segment.place[first + i] * shape.stride(), from + i * shape.padded(), shape.features * 4);
}

// [token, feature] -> [feature, token], of one tile of tokens.
void turn(const float* from, int64_t width, int64_t features, int64_t tokens, float* to) {
  for (int64_t token = 0; token < tokens; ++token)
    for (int64_t f = 0; f < features; ++f) to[f * kTile + token] = from[token * width + f];
}

// What a tile of queries sees of the keys: dropout's scale by [key, query], and whether any.
struct Mask {
  const Segment& segment;
  const Shape& shape;
  uint32_t first_word, second_word;
  int64_t head, first;  // query of the tile

  int64_t keys_from() const {
    if (shape.window < 0) return 0;
    const auto& place = segment.place;
    const int64_t lowest = place[first] - shape.window;
    return std::lower_bound(place.begin(), place.end(), lowest) - place.begin();
  }
  int64_t keys_to() const {
    if (shape.window < 0) return segment.size();
    const auto& place = segment.place;
    const int64_t last = std::min(first + kTile, segment.size()) - 1;
    return std::upper_bound(place.begin(), place.end(), place[last] + shape.window) - place.begin();
  }
  // Places of a vector's queries; those past the end repeat the last.
  Ints places(int vector) const {
    Ints found;
    for (int lane = 0; lane < kLanes; ++lane)
      found[lane] = segment.place[std::min(first + vector * kLanes + lane, segment.size() - 1)];
    return found;
  }
  Ints seen(int64_t key, Ints query) const {
    if (shape.window < 0) return Ints{} == Ints{};
    const Ints apart = query - segment.place[key];
    return (apart <= static_cast<int32_t>(shape.window)) & (apart >= -static_cast<int32_t>(shape.window));
  }
  Floats kept(int64_t key, Ints query) const {
    if (shape.threshold == 0) return all(1.0f);
    const uint32_t line = static_cast<uint32_t>((head * shape.length + segment.place[key]) * shape.length);
    const Words word = mix(mix(((Words)query + line) ^ first_word) + second_word);
    return word >= shape.threshold ? all(shape.kept_scale) : Floats{};
  }
};

template <int Vectors>
void forward_tile(const Mask& mask, const float* q, const float* k, const float* v, float* turned, float* weights,
                  float* mixed, float* out, float* log_total) {
  const Segment& segment = mask.segment;
  const Shape& shape = mask.shape;
  const int64_t width = shape.padded(), tokens = std::min<int64_t>(kTile, segment.size() - mask.first);
  const int64_t from = mask.keys_from(), to = mask.keys_to();
  float shares[kTile];
  turn(q + mask.first * width, width, shape.features, Vectors * kLanes, turned);
  multiply<Vectors>(k + from * width, width, 1, turned, kTile, shape.features, weights, kTile, to - from);
  for (int vector = 0; vector < Vectors; ++vector) {
    const Ints query = mask.places(vector);
    float* column = weights + vector * kLanes;
    Floats highest = all(-std::numeric_limits<float>::infinity());
    for (int64_t key = from; key < to; ++key) {
      float* at = column + (key - from) * kTile;
      const Floats score = mask.seen(key, query) ? load(at) : all(-std::numeric_limits<float>::infinity());
      if (shape.window >= 0) store(at, score);
      highest = score > highest ? score : highest;
    }
    Floats total = {};
    for (int64_t key = from; key < to; ++key) {
      float* at = column + (key - from) * kTile;
      const Floats weight = exponential(load(at) - highest);
      total += weight;
      store(at, weight * mask.kept(key, query));
    }
    store(shares + vector * kLanes, 1.0f / total);
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t token = mask.first + vector * kLanes + lane;
      if (token < segment.size()) log_total[segment.place[token]] = highest[lane] + __builtin_logf(total[lane]);
    }
  }
  multiply_wide(weights, 1, kTile, v + from * width, width, to - from, mixed, width, tokens, width);
  for (int64_t token = 0; token < tokens; ++token)
    for (int64_t f = 0; f < width; ++f) mixed[token * width + f] *= shares[token];
  scatter(mixed, segment, mask.first, tokens, shape, out);
}

struct Gradients {
  float *q, *k, *v;  // of a tile; of the whole segment; of the whole segment
};

template <int Vectors>
void backward_tile(const Mask& mask, const float* q, const float* k, const float* v, const float* cotangent,
                   const float* share, const float* log_total, float* turned, float* weights, float* to_scores,
                   float scale, const Gradients& found, float* out) {
  const Segment& segment = mask.segment;
  const Shape& shape = mask.shape;
  const int64_t width = shape.padded(), tokens = std::min<int64_t>(kTile, segment.size() - mask.first);
  const int64_t from = mask.keys_from(), to = mask.keys_to(), keys = to - from;
  turn(q + mask.first * width, width, shape.features, Vectors * kLanes, turned);
  multiply<Vectors>(k + from * width, width, 1, turned, kTile, shape.features, weights, kTile, keys);
  turn(cotangent + mask.first * width, width, shape.features, Vectors * kLanes, turned);
  multiply<Vectors>(v + from * width, width, 1, turned, kTile, shape.features, to_scores, kTile, keys);
  for (int vector = 0; vector < Vectors; ++vector) {
    const Ints query = mask.places(vector);
    Floats total, own;
    for (int lane = 0; lane < kLanes; ++lane) {
      const int64_t token = mask.first + vector * kLanes + lane;
      const bool there = token < segment.size();
      total[lane] = there ? log_total[segment.place[token]] : std::numeric_limits<float>::infinity();
      own[lane] = there ? share[token] : 0;
    }
    for (int64_t key = from; key < to; ++key) {
      const int64_t at = (key - from) * kTile + vector * kLanes;
      const Floats weight = mask.seen(key, query) ? exponential(load(weights + at) - total) : Floats{};
      const Floats kept = mask.kept(key, query);
      store(to_scores + at, weight * (kept * load(to_scores + at) - own));
      store(weights + at, weight * kept);
    }
  }
  const int64_t whole = Vectors * kLanes;
  for (int64_t key = keys; key < round_up(keys, kBlock); ++key)  // made by the last block, but no keys of this segment
    for (float* array : {weights, to_scores}) std::memset(array + key * kTile, 0, kTile * 4);
  multiply_wide(to_scores, 1, kTile, k + from * width, width, keys, found.q, width, tokens, width);
  for (int64_t i = 0; i < tokens * width; ++i) found.q[i] *= scale;
  scatter(found.q, segment, mask.first, tokens, shape, out);
  const float *own_q = q + mask.first * width, *own_cotangent = cotangent + mask.first * width;
  multiply_wide(to_scores, kTile, 1, own_q, width, whole, found.k + from * width, width, keys, width, true);
  multiply_wide(weights, kTile, 1, own_cotangent, width, whole, found.v + from * width, width, keys, width, true);
}

// Runs work(0) ... work(count - 1) on the pool and on this thread. Returns when all are done; what the pool starts later
// finds nothing left to do.
void share_out(ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> work) {
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto shared = std::make_shared<Shared>();
  // `work` refers to buffers of this call: a late thread copies it, but never calls it.
  auto run = [shared, count, work] {
    for (int64_t i; (i = shared->next.fetch_add(1)) < count;) {
      work(i);
      if (shared->done.fetch_add(1) + 1 == count) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->all_done.notify_all();
      }
    }
  };
  const int64_t helpers = std::min(pool.num_threads(), count) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(run));
  run();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->done.load() == count; });
}

using F32x4 = ffi::Buffer<ffi::F32, 4>;
using F32x3 = ffi::Buffer<ffi::F32, 3>;
using S32x2 = ffi::Buffer<ffi::S32, 2>;
using U32x2 = ffi::Buffer<ffi::U32, 2>;

Shape shape_of(const F32x4& q, int64_t window, int64_t threshold, float rate) {
  const auto size = q.dimensions();
  return {size[0], size[1], size[2], size[3], window, static_cast<uint32_t>(threshold), 1.0f / (1.0f - rate)};
}

const uint32_t* words_of(const U32x2& words, int64_t row) { return words.typed_data() + 2 * row; }

// Room for `arrays` of a whole segment, one of its keys by queries each `squares`, and three tiles.
int64_t room(const Shape& shape, int64_t arrays, int64_t squares) {
  const int64_t tokens = round_up(shape.length, kTile) + kTile, width = shape.padded();
  return arrays * tokens * width + squares * tokens * kTile + 3 * kTile * std::max<int64_t>(width, kTile) + 4 * tokens +
         256;
}

// What one thread computes at a time.
struct Head {
  int64_t row, number;
  int64_t start;   // of its first token's features in [rows, length, heads, features]
  int64_t totals;  // of its first token in [rows, heads, length]
};

// Runs work(head, scratch, segments of its row) for every head of every row.
template <typename Work>
ffi::Error over_heads(ffi::ThreadPool& pool, const Shape& shape, const int32_t* segments, int64_t arrays,
                      int64_t squares, Work work) {
  std::atomic<bool> failed{false};
  share_out(pool, shape.rows * shape.heads, [&](int64_t item) {
    static thread_local Scratch scratch;
    static thread_local std::vector<Segment> found;
    scratch.prepare(room(shape, arrays, squares));
    if (!scratch.ready()) {
      failed = true;
      return;
    }
    const int64_t row = item / shape.heads, number = item % shape.heads;
    split(segments + row * shape.length, shape.length, found);
    const int64_t start = row * shape.length * shape.stride() + number * shape.features;
    work(Head{row, number, start, item * shape.length}, scratch, found);
  });
  return failed ? ffi::Error(ffi::ErrorCode::kResourceExhausted, "attention: no memory left") : ffi::Error::Success();
}

ffi::Error forward(ffi::ThreadPool pool, F32x4 q, F32x4 k, F32x4 v, S32x2 segment,
                   U32x2 words, int64_t window, int64_t threshold, float rate,
                   ffi::Result<F32x4> mixed, ffi::Result<F32x3> log_total) {
  const Shape shape = shape_of(q, window, threshold, rate);
  const float scale = 1.0f / __builtin_sqrtf(shape.features);
  const float *q_data = q.typed_data(), *k_data = k.typed_data(), *v_data = v.typed_data();
  float *out = mixed->typed_data(), *totals = log_total->typed_data();
  const int64_t tokens = round_up(shape.length, kTile) + kTile, width = shape.padded();
  return over_heads(pool, shape, segment.typed_data(), 3, 1, [&](Head head, Scratch& scratch, const auto& found) {
    const int64_t start = head.start;
    float *own_q = scratch.take(tokens * width), *own_k = scratch.take(tokens * width);
    float *own_v = scratch.take(tokens * width), *weights = scratch.take(tokens * kTile);
    float *turned = scratch.take(kTile * width), *tile = scratch.take(kTile * std::max<int64_t>(width, kTile));
    for (const Segment& each : found) {
      gather(q_data + start, each, shape, scale, own_q);
      gather(k_data + start, each, shape, 1, own_k);
      gather(v_data + start, each, shape, 1, own_v);
      const uint32_t* word = words_of(words, head.row);
      for (int64_t first = 0; first < each.size(); first += kTile) {
        const Mask mask{each, shape, word[0], word[1], head.number, first};
        auto run = each.size() - first <= kLanes ? forward_tile<1> : forward_tile<2>;
        run(mask, own_q, own_k, own_v, turned, weights, tile, out + start, totals + head.totals);
      }
    }
  });
}

ffi::Error backward(ffi::ThreadPool pool, F32x4 q, F32x4 k, F32x4 v, S32x2 segment,
                    U32x2 words, F32x4 mixed, F32x3 log_total, F32x4 cotangent,
                    int64_t window, int64_t threshold, float rate, ffi::Result<F32x4> to_q, ffi::Result<F32x4> to_k,
                    ffi::Result<F32x4> to_v) {
  const Shape shape = shape_of(q, window, threshold, rate);
  const float scale = 1.0f / __builtin_sqrtf(shape.features);
  const float *q_data = q.typed_data(), *k_data = k.typed_data(), *v_data = v.typed_data();
  const float *mixed_data = mixed.typed_data(), *totals = log_total.typed_data(), *given = cotangent.typed_data();
  float *q_out = to_q->typed_data(), *k_out = to_k->typed_data(), *v_out = to_v->typed_data();
  const int64_t tokens = round_up(shape.length, kTile) + kTile, width = shape.padded();
  return over_heads(pool, shape, segment.typed_data(), 6, 2, [&](Head head, Scratch& scratch, const auto& found) {
    const int64_t start = head.start;
    float *own_q = scratch.take(tokens * width), *own_k = scratch.take(tokens * width);
    float *own_v = scratch.take(tokens * width), *own_cotangent = scratch.take(tokens * width);
    float *sum_k = scratch.take(tokens * width), *sum_v = scratch.take(tokens * width);
    float *weights = scratch.take(tokens * kTile), *to_scores = scratch.take(tokens * kTile);
    float *turned = scratch.take(kTile * width), *tile = scratch.take(kTile * width), *share = scratch.take(tokens);
    for (const Segment& each : found) {
      gather(q_data + start, each, shape, scale, own_q);
      gather(k_data + start, each, shape, 1, own_k);
      gather(v_data + start, each, shape, 1, own_v);
      gather(given + start, each, shape, 1, own_cotangent);
      for (int64_t i = 0; i < each.size(); ++i) {
        const float* result = mixed_data + start + each.place[i] * shape.stride();
        float sum = 0;
        for (int64_t f = 0; f < shape.features; ++f) sum += result[f] * own_cotangent[i * width + f];
        share[i] = sum;
      }
      std::memset(sum_k, 0, each.padded() * width * 4);
      std::memset(sum_v, 0, each.padded() * width * 4);
      const uint32_t* word = words_of(words, head.row);
      for (int64_t first = 0; first < each.size(); first += kTile) {
        const Mask mask{each, shape, word[0], word[1], head.number, first};
        auto run = each.size() - first <= kLanes ? backward_tile<1> : backward_tile<2>;
        run(mask, own_q, own_k, own_v, own_cotangent, share, totals + head.totals, turned, weights, to_scores,
            scale, {tile, sum_k, sum_v}, q_out + start);
      }
      scatter(sum_k, each, 0, each.size(), shape, k_out + start);
      scatter(sum_v, each, 0, each.size(), shape, v_out + start);
    }
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(mtret_attention_forward, forward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32x4>()
                                  .Arg<F32x4>()
                                  .Arg<F32x4>()
                                  .Arg<S32x2>()
                                  .Arg<U32x2>()
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("threshold")
                                  .Attr<float>("rate")
                                  .Ret<F32x4>()
                                  .Ret<F32x3>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(mtret_attention_backward, backward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32x4>()
                                  .Arg<F32x4>()
                                  .Arg<F32x4>()
                                  .Arg<S32x2>()
                                  .Arg<U32x2>()
                                  .Arg<F32x4>()
                                  .Arg<F32x3>()
                                  .Arg<F32x4>()
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("threshold")
                                  .Attr<float>("rate")
                                  .Ret<F32x4>()
                                  .Ret<F32x4>()
                                  .Ret<F32x4>());
