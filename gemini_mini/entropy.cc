// Cross-entropy over a vocabulary and its gradient, whole: logits are never in memory, but for one block of rows and one slice of the
// vocabulary. They are made twice, for the sum of each row and for the gradient, which costs less than to write and read them.
// Registered by matmul.py. Products are in bfloat16, all else is float32. Paper: cut cross-entropy, arXiv 2411.09009.

#include <cmath>

#include "tiles.h"

namespace {

using Wide = ffi::Buffer<ffi::F32>;
using Narrow = ffi::Buffer<ffi::BF16>;
using Made = ffi::ResultBuffer<ffi::F32>;

#ifdef __AVX512BF16__
constexpr int64_t kRows = 512, kSlice = 128;  // of a block: what stands at once stays in the second cache
constexpr int64_t kParts = 4;                 // of the rows, whose sums for the table stand apart: as many on every machine (matmul.PARTS)
constexpr float kHidden = -1e30f;

// hidden [rows, width] against table [ids, width], of which the first `vocabulary` are meant. `width` and `ids` are multiples of 32.
struct Scores {
  int64_t width, ids, vocabulary;
  const uint16_t *hidden, *table;
  const int32_t* targets;
  std::vector<int32_t> counted;  // the rows that count: of the others nothing is made
  int64_t each;                  // of them in a part
  Columns columns;

  Scores(ffi::ThreadPool& pool, const Narrow& hidden, const Narrow& table, const ffi::Buffer<ffi::S32>& targets, const Wide& weights, int64_t vocabulary)
      : width(hidden.dimensions()[1]), ids(table.dimensions()[0]), vocabulary(vocabulary), hidden(begin(hidden)), table(begin(table)),
        targets(targets.typed_data()), columns(pool, begin(table), width, true, ids, width / 2) {
    for (int64_t row = 0; row < hidden.dimensions()[0]; ++row)
      if (weights.typed_data()[row]) counted.push_back(row);
    each = (counted.size() + 32 * kParts - 1) / (32 * kParts) * 32;
  }

  int64_t slice(int64_t first) const { return std::min(kSlice, ids - first); }
};

// Some rows that count, padded with zeros to a multiple of 32.
struct Block {
  const Scores& all;
  const int32_t* rows;
  int64_t size, padded;
  std::vector<uint16_t>& hidden;
  std::vector<float>& scores;

  template <typename Tile>
  void multiply_slice(const Tile& tile, int64_t first) const {
    multiply(tile, padded, all.slice(first), all.width / 2, as_pairs(hidden.data()), all.width / 2, all.columns.column(first), all.columns.step,
             scores.data(), kSlice, false);
  }

  // Scores of 16 ids from `id` on; what is beyond the vocabulary has no share.
  __m512 read(int64_t row, int64_t first, int64_t id) const {
    return _mm512_mask_loadu_ps(_mm512_set1_ps(kHidden), ::first(all.vocabulary - id), &scores[row * kSlice + id - first]);
  }

  template <typename Tile>
  void sums(const Tile& tile, float* nats, float* log_z) const {
    static thread_local std::vector<__m512> top(kRows), total(kRows);  // of each lane
    static thread_local std::vector<float> found(kRows);
    std::fill(top.begin(), top.end(), _mm512_set1_ps(kHidden));
    std::fill(total.begin(), total.end(), _mm512_setzero_ps());
    std::fill(found.begin(), found.end(), NAN);  // of a target that is none
    for (int64_t id = 0; id < all.ids; id += kSlice) {
      multiply_slice(tile, id);
      const int64_t end = id + all.slice(id);
      for (int64_t r = 0; r < size; ++r) {
        __m512 most = top[r];
        for (int64_t i = id; i < end; i += 16) most = _mm512_max_ps(read(r, id, i), most);  // of no number and a number it is the second
        __m512 sum = _mm512_mul_ps(total[r], exponential(_mm512_sub_ps(top[r], most)));
        for (int64_t i = id; i < end; i += 16) sum = _mm512_add_ps(sum, exponential(_mm512_sub_ps(read(r, id, i), most)));
        top[r] = most, total[r] = sum;
        const int64_t target = all.targets[rows[r]] - id;
        if (target >= 0 && target < std::min(kSlice, all.vocabulary - id)) found[r] = scores[r * kSlice + target];
      }
    }
    for (int64_t r = 0; r < size; ++r) {
      const float most = _mm512_reduce_max_ps(top[r]);
      log_z[rows[r]] = most + std::log(_mm512_reduce_add_ps(_mm512_mul_ps(total[r], exponential(_mm512_sub_ps(top[r], _mm512_set1_ps(most))))));
      nats[rows[r]] = log_z[rows[r]] - found[r];
    }
  }
};

// run(tile, block, part, whether it is the first of its part) for the rows that count.
template <typename Run>
void each_block(ffi::ThreadPool& pool, const Scores& all, Run run) {
  in_parts(pool, kParts, 1, [&](int64_t part) {
    static thread_local std::vector<uint16_t> hidden;
    static thread_local std::vector<float> scores(kRows * kSlice);
    hidden.resize(kRows * all.width);
    const int64_t count = all.counted.size(), end = std::min(count, (part + 1) * all.each);
    for (int64_t row = part * all.each; row < end; row += kRows) {
      const int64_t size = std::min(kRows, end - row), padded = (size + 31) / 32 * 32;
      for (int64_t r = 0; r < size; ++r)
        std::copy_n(all.hidden + all.counted[row + r] * all.width, all.width, &hidden[r * all.width]);
      std::fill_n(hidden.begin() + size * all.width, (padded - size) * all.width, 0);
      const Block block{all, &all.counted[row], size, padded, hidden, scores};
      with_tiles([&](const auto& tile) { run(tile, block, part, row == part * all.each); });
    }
  });
}

bool fits(const Narrow& hidden, const Narrow& table) {
  return kind != Kind::kNone && hidden.dimensions()[1] % 32 == 0 && table.dimensions()[0] % 32 == 0;
}

// Of each row that counts the nats of its target and the logarithm of the sum of e^score; of others 0.
ffi::Error Entropy(ffi::ThreadPool pool, Narrow hidden, Narrow table, ffi::Buffer<ffi::S32> targets, Wide weights, Made nats, Made log_z,
                   int64_t vocabulary) {
  if (!fits(hidden, table)) return refused();
  const Scores all(pool, hidden, table, targets, weights, vocabulary);
  for (auto made : {nats, log_z}) std::fill_n(made->typed_data(), made->element_count(), 0.0f);
  float *to_nats = nats->typed_data(), *sums = log_z->typed_data();
  each_block(pool, all, [=](const auto& tile, const Block& block, int64_t, bool) { block.sums(tile, to_nats, sums); });
  return ffi::Error::Success();
}

// That, and the gradients of hidden, and of the table by parts of the rows [kParts, ...], of the sum of weights * (nats + z * log_z^2).
ffi::Error EntropyBack(ffi::ThreadPool pool, Narrow hidden, Narrow table, ffi::Buffer<ffi::S32> targets, Wide weights, Made nats, Made log_z,
                       Made dhidden, Made dtable, int64_t vocabulary, float z) {
  if (!fits(hidden, table) || dtable->dimensions()[0] != kParts) return refused();
  const Scores all(pool, hidden, table, targets, weights, vocabulary);
  const Columns back(pool, all.table, all.width, false, all.width, all.ids / 2);
  for (auto made : {nats, log_z, dhidden}) std::fill_n(made->typed_data(), made->element_count(), 0.0f);
  float *to_nats = nats->typed_data(), *sums = log_z->typed_data(), *to_hidden = dhidden->typed_data(), *to_table = dtable->typed_data();
  const float* weight = weights.typed_data();
  const int64_t width = all.width;
  for (int64_t part = 0; part < kParts; ++part)
    if (part * all.each >= int64_t(all.counted.size())) std::fill_n(to_table + part * all.ids * width, all.ids * width, 0.0f);
  each_block(pool, all, [&](const auto& tile, const Block& block, int64_t part, bool is_first) {
    static thread_local std::vector<float> slopes;
    static thread_local std::vector<uint16_t> changes(kRows * kSlice);
    static thread_local std::vector<Pair> turned(kSlice * kRows / 2);
    static thread_local std::vector<__m512i> rows;
    slopes.resize(kRows * width), rows.resize(width / 16 * kRows / 2);
    block.sums(tile, to_nats, sums);
    const int64_t pairs = block.padded / 2;
    lay_columns(block.hidden.data(), width, false, width, pairs, rows.data(), pairs);
    for (int64_t id = 0; id < all.ids; id += kSlice) {
      const int64_t slice = all.slice(id);
      block.multiply_slice(tile, id);
      std::fill_n(changes.begin() + block.size * slice, (block.padded - block.size) * slice, 0);
      for (int64_t r = 0; r < block.size; ++r) {
        const int32_t row = block.rows[r];
        const __m512 share = _mm512_set1_ps(weight[row] * (1 + 2 * z * sums[row])), sum = _mm512_set1_ps(sums[row]);
        const __m512i target = _mm512_set1_epi32(all.targets[row]);
        for (int64_t i = id; i < id + slice; i += 16) {
          const __mmask16 is_target = _mm512_cmpeq_epi32_mask(target, _mm512_add_epi32(_mm512_set1_epi32(i), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
          const __m512 change = _mm512_mul_ps(share, exponential(_mm512_sub_ps(block.read(r, id, i), sum)));
          store_narrow(_mm512_mask_sub_ps(change, is_target, change, _mm512_set1_ps(weight[row])), &changes[r * slice + i - id]);
        }
      }
      multiply(tile, block.padded, width, slice / 2, as_pairs(changes.data()), slice / 2, back.pair(id / 2), back.step, slopes.data(), width, id > 0);
      lay_rows(changes.data(), slice, false, slice, pairs, turned.data(), pairs);
      multiply(tile, slice, width, pairs, turned.data(), pairs, rows.data(), pairs, to_table + (part * all.ids + id) * width, width, !is_first);
    }
    for (int64_t r = 0; r < block.size; ++r) std::copy_n(&slopes[r * width], width, to_hidden + block.rows[r] * width);
  });
  return ffi::Error::Success();
}
#endif

}  // namespace

#ifdef __AVX512BF16__
XLA_FFI_DEFINE_HANDLER_SYMBOL(entropy, Entropy,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Narrow>().Arg<Narrow>().Arg<ffi::Buffer<ffi::S32>>().Arg<Wide>()
                                  .Ret<Wide>().Ret<Wide>().Attr<int64_t>("vocabulary"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(entropy_back, EntropyBack,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Narrow>().Arg<Narrow>().Arg<ffi::Buffer<ffi::S32>>().Arg<Wide>()
                                  .Ret<Wide>().Ret<Wide>().Ret<Wide>().Ret<Wide>().Attr<int64_t>("vocabulary").Attr<float>("z"));
#endif
