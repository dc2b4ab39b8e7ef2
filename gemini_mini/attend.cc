// Attention within segments, forward and backward, block by block of queries and of keys: scores are never in memory but for one block.
// Blocks in the future, or without a segment in common, are left out. Registered by matmul.py; products are in bfloat16, all else in float32.
// Paper: FlashAttention-2, arXiv 2307.08691. Here a thread has one head of one row, and makes all of its sums in one order.

#include <cmath>

#include "tiles.h"

namespace {

constexpr int kBlock = 64;  // queries, and keys, of a block: axes are padded to whole ones

using Wide = ffi::Buffer<ffi::F32>;
using Narrow = ffi::Buffer<ffi::BF16>;
using Ids = ffi::Buffer<ffi::S32>;

#ifdef __AVX512BF16__
constexpr int kPairs = kBlock / 2, kAcross = kBlock / 16;  // of a block's axis
constexpr float kHidden = -1e30f;

// The lowest and the highest segment of a block. Padding, 0 or -1, stands after all others.
struct Span {
  uint32_t low = ~0u, high = 0;
};

std::vector<Span> spans(const Ids& ids) {
  const int32_t* segments = ids.typed_data();
  const int64_t count = ids.element_count();
  std::vector<Span> found(count / kBlock);
  for (int64_t i = 0; i < count; ++i) {
    Span& here = found[i / kBlock];
    const uint32_t place = uint32_t(segments[i]) - 1;
    here = {std::min(here.low, place), std::max(here.high, place)};
  }
  return found;
}

// Queries and keys of one head of one row, and which of them are of one segment.
struct Head {
  int64_t queries, keys, size;
  const uint16_t *q, *k, *v;
  const int32_t *q_segments, *k_segments;
  bool causal;
  const Span *q_spans, *k_spans;

  int64_t vectors() const { return size * kPairs / 16; }  // of a block that is laid out

  // Whether some query of block i may see some key of block j: segments that lie apart have none in common, whatever their order.
  bool meet(int64_t i, int64_t j) const {
    return (!causal || j <= i) && q_spans[i].low <= k_spans[j].high && k_spans[j].low <= q_spans[i].high;
  }

  // Which of 16 queries from `query` on see a key.
  __mmask16 seen(int64_t query, int64_t key) const {
    const __mmask16 same = _mm512_cmpeq_epi32_mask(_mm512_loadu_si512(q_segments + query), _mm512_set1_epi32(k_segments[key]));
    return causal ? same & ~first(key - query) : same;
  }
};

// out [queries, size], and the logarithm of the sum of e^score of each query.
template <typename Tile>
void forward(const Tile& tile, const Head& head, float* out, float* lse) {
  const int64_t size = head.size, step = head.vectors(), half = size / 2;
  std::vector<__m512i> queries(step), values(head.keys / kBlock * step);
  alignas(64) float scores[kBlock * kBlock], top[kBlock], total[kBlock], shrink[kBlock];
  alignas(64) uint16_t weights[kBlock * kBlock];
  alignas(64) Pair turned[kBlock * kPairs];
  for (int64_t j = 0; j < head.keys / kBlock; ++j)
    lay_columns(head.v + j * kBlock * size, size, false, size, kPairs, &values[j * step], kPairs);
  for (int64_t i = 0; i < head.queries / kBlock; ++i, out += kBlock * size, lse += kBlock) {
    lay_columns(head.q + i * kBlock * size, size, true, kBlock, half, queries.data(), half);
    std::fill_n(out, kBlock * size, 0.0f);
    std::fill_n(top, kBlock, kHidden);
    std::fill_n(total, kBlock, 0.0f);
    for (int64_t j = 0; j < head.keys / kBlock; ++j) {
      if (!head.meet(i, j)) continue;
      multiply(tile, kBlock, kBlock, half, as_pairs(head.k + j * kBlock * size), half, queries.data(), half, scores, kBlock, false);
      const __m512 hidden = _mm512_set1_ps(kHidden);
      __m512 most[kAcross], sum[kAcross];
      for (int c = 0; c < kAcross; ++c) most[c] = _mm512_load_ps(top + 16 * c);
      for (int r = 0; r < kBlock; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < kAcross; ++c) {
          float* at = scores + r * kBlock + 16 * c;
          const __m512 score = _mm512_mask_blend_ps(head.seen(i * kBlock + 16 * c, j * kBlock + r), hidden, _mm512_load_ps(at));
          _mm512_store_ps(at, score);
          most[c] = _mm512_max_ps(most[c], score);
        }
      for (int c = 0; c < kAcross; ++c) {
        const __m512 less = exponential(_mm512_sub_ps(_mm512_load_ps(top + 16 * c), most[c]));
        sum[c] = _mm512_mul_ps(less, _mm512_load_ps(total + 16 * c));
        _mm512_store_ps(shrink + 16 * c, less);
      }
      for (int r = 0; r < kBlock; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < kAcross; ++c) {
          const int at = r * kBlock + 16 * c;
          const __m512 score = _mm512_load_ps(scores + at);
          const __m512 weight = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(score, hidden, _CMP_NLE_UQ), exponential(_mm512_sub_ps(score, most[c])));
          sum[c] = _mm512_add_ps(sum[c], weight);
          store_narrow(weight, weights + at);
        }
      for (int c = 0; c < kAcross; ++c) {
        _mm512_store_ps(top + 16 * c, most[c]);
        _mm512_store_ps(total + 16 * c, sum[c]);
      }
      for (int r = 0; r < kBlock; ++r)
        for (int64_t c = 0; c < size; ++c) out[r * size + c] *= shrink[r];
      lay_rows(weights, kBlock, false, kBlock, kPairs, turned, kPairs);
      multiply(tile, kBlock, size, kPairs, turned, kPairs, &values[j * step], kPairs, out, size, true);
    }
    for (int r = 0; r < kBlock; ++r) {
      const float sum = std::max(total[r], 1e-30f);  // 0 of a query that sees nothing
      for (int64_t c = 0; c < size; ++c) out[r * size + c] /= sum;
      lse[r] = top[r] + std::log(sum);
    }
  }
}

// The gradients [queries or keys, size], given that of `out`, and of each query its log-sum-exp and the mean of its weights' gradients.
template <typename Tile>
void backward(const Tile& tile, const Head& head, const uint16_t* grad, const float* lse, const float* mean, float* dq, float* dk, float* dv) {
  const int64_t size = head.size, step = head.vectors(), half = size / 2, blocks = head.queries / kBlock;
  // For scores and their gradients a query is a column; for those of keys and values a number of all queries is.
  std::vector<__m512i> queries(blocks * step), grads(blocks * step), query_columns(blocks * step), grad_columns(blocks * step), keys(step);
  alignas(64) float scores[kBlock * kBlock], slopes[kBlock * kBlock];
  alignas(64) uint16_t weights[kBlock * kBlock], changes[kBlock * kBlock];
  alignas(64) Pair turned[kBlock * kPairs];
  for (int64_t i = 0; i < blocks; ++i) {
    const uint16_t *q = head.q + i * kBlock * size, *g = grad + i * kBlock * size;
    lay_columns(q, size, true, kBlock, half, &queries[i * step], half);
    lay_columns(g, size, true, kBlock, half, &grads[i * step], half);
    lay_columns(q, size, false, size, kPairs, &query_columns[i * step], kPairs);
    lay_columns(g, size, false, size, kPairs, &grad_columns[i * step], kPairs);
  }
  std::fill_n(dq, head.queries * size, 0.0f);
  for (int64_t j = 0; j < head.keys / kBlock; ++j, dk += kBlock * size, dv += kBlock * size) {
    const uint16_t *k = head.k + j * kBlock * size, *v = head.v + j * kBlock * size;
    lay_columns(k, size, false, size, kPairs, keys.data(), kPairs);
    std::fill_n(dk, kBlock * size, 0.0f);
    std::fill_n(dv, kBlock * size, 0.0f);
    for (int64_t i = 0; i < blocks; ++i) {
      if (!head.meet(i, j)) continue;
      multiply(tile, kBlock, kBlock, half, as_pairs(k), half, &queries[i * step], half, scores, kBlock, false);
      multiply(tile, kBlock, kBlock, half, as_pairs(v), half, &grads[i * step], half, slopes, kBlock, false);
      __m512 sum[kAcross], middle[kAcross];
      for (int c = 0; c < kAcross; ++c) {
        sum[c] = _mm512_loadu_ps(lse + i * kBlock + 16 * c);
        middle[c] = _mm512_loadu_ps(mean + i * kBlock + 16 * c);
      }
      for (int r = 0; r < kBlock; ++r)
#pragma GCC unroll 4
        for (int c = 0; c < kAcross; ++c) {
          const int at = r * kBlock + 16 * c;
          const __m512 weight = _mm512_maskz_mov_ps(head.seen(i * kBlock + 16 * c, j * kBlock + r),
                                                    exponential(_mm512_sub_ps(_mm512_load_ps(scores + at), sum[c])));
          store_narrow(weight, weights + at);
          store_narrow(_mm512_mul_ps(weight, _mm512_sub_ps(_mm512_load_ps(slopes + at), middle[c])), changes + at);
        }
      multiply(tile, kBlock, size, kPairs, as_pairs(weights), kPairs, &grad_columns[i * step], kPairs, dv, size, true);
      multiply(tile, kBlock, size, kPairs, as_pairs(changes), kPairs, &query_columns[i * step], kPairs, dk, size, true);
      lay_rows(changes, kBlock, false, kBlock, kPairs, turned, kPairs);
      multiply(tile, kBlock, size, kPairs, turned, kPairs, keys.data(), kPairs, dq + i * kBlock * size, size, true);
    }
  }
}

// part(tile, head, its place among those of queries) of every head of every row; keys may be of fewer heads.
template <typename Part>
ffi::Error each_head(ffi::ThreadPool& pool, const Narrow& q, const Narrow& k, const Narrow& v, const Ids& q_segments, const Ids& k_segments,
                     bool causal, Part part) {
  if (kind == Kind::kNone) return refused();
  const auto shape = q.dimensions(), of_keys = k.dimensions();
  if (shape[1] % of_keys[1])
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, "products: query heads must be a multiple of key heads");
  const int64_t heads = shape[1], group = heads / of_keys[1], queries = shape[2], keys = of_keys[2], size = shape[3];
  const auto q_spans = spans(q_segments), k_spans = spans(k_segments);
  const Head all{queries, keys, size, begin(q), begin(k), begin(v), q_segments.typed_data(), k_segments.typed_data(), causal, q_spans.data(), k_spans.data()};
  const int count = shape[0] * heads;
  in_parts(pool, count, 1, [=](int64_t n) {
    Head head = all;
    head.q += n * queries * size;
    head.k += n / group * keys * size;
    head.v += n / group * keys * size;
    head.q_segments += n / heads * queries;
    head.k_segments += n / heads * keys;
    head.q_spans += n / heads * queries / kBlock;
    head.k_spans += n / heads * keys / kBlock;
    with_tiles([&](const auto& tile) { part(tile, head, n); });
  });
  return ffi::Error::Success();
}

ffi::Error Attend(ffi::ThreadPool pool, Narrow q, Narrow k, Narrow v, Ids q_segments, Ids k_segments, ffi::ResultBuffer<ffi::F32> out,
                  ffi::ResultBuffer<ffi::F32> lse, bool causal) {
  float *outs = out->typed_data(), *sums = lse->typed_data();
  return each_head(pool, q, k, v, q_segments, k_segments, causal, [=](const auto& tile, const Head& head, int64_t n) {
    forward(tile, head, outs + n * head.queries * head.size, sums + n * head.queries);
  });
}

ffi::Error AttendBack(ffi::ThreadPool pool, Narrow q, Narrow k, Narrow v, Ids q_segments, Ids k_segments, Narrow grad, Wide lse, Wide mean,
                      ffi::ResultBuffer<ffi::F32> dq, ffi::ResultBuffer<ffi::F32> dk, ffi::ResultBuffer<ffi::F32> dv, bool causal) {
  const uint16_t* grads = begin(grad);
  const float *sums = lse.typed_data(), *means = mean.typed_data();
  float *to_q = dq->typed_data(), *to_k = dk->typed_data(), *to_v = dv->typed_data();
  return each_head(pool, q, k, v, q_segments, k_segments, causal, [=](const auto& tile, const Head& head, int64_t n) {
    const int64_t queries = n * head.queries, keys = n * head.keys * head.size;
    backward(tile, head, grads + queries * head.size, sums + queries, means + queries, to_q + queries * head.size, to_k + keys, to_v + keys);
  });
}
#endif

}  // namespace

#ifdef __AVX512BF16__
XLA_FFI_DEFINE_HANDLER_SYMBOL(attend, Attend,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Narrow>().Arg<Narrow>().Arg<Narrow>().Arg<Ids>().Arg<Ids>()
                                  .Ret<Wide>().Ret<Wide>().Attr<bool>("causal"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(attend_back, AttendBack,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Narrow>().Arg<Narrow>().Arg<Narrow>().Arg<Ids>().Arg<Ids>()
                                  .Arg<Narrow>().Arg<Wide>().Arg<Wide>().Ret<Wide>().Ret<Wide>().Ret<Wide>().Attr<bool>("causal"));
#endif
