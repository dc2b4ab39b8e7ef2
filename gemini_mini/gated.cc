// The gated MLP y = (gelu(x gate) * (x up)) down, whole, forward and backward: what is between its products is never in memory, but for one
// block of rows and one slice of the hidden axis, and is made again on the way back. Products are in bfloat16, all else is float32.
// Registered by matmul.py. Paper: gated MLP, arXiv 2002.05202; gelu by tanh, as jax.nn.gelu has it.

#include "tiles.h"

namespace {

using Narrow = ffi::Buffer<ffi::BF16>;
using Made = ffi::ResultBuffer<ffi::F32>;

#ifdef __AVX512BF16__
constexpr int64_t kRows = 256, kSlice = 128;  // of a block: what stands at once stays in the second cache
constexpr int64_t kParts = 4;                 // of the rows, whose sums for the weights stand apart: as many on every machine (matmul.PARTS)

struct Gelu {
  __m512 value, slope;
};

// x s and its slope, with s = 1 / (1 + e^-2z), z = sqrt(2 / pi) (x + 0.044715 x^3).
inline Gelu gelu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1), square = _mm512_mul_ps(x, x);
  const __m512 twice = _mm512_mul_ps(x, _mm512_fmadd_ps(square, _mm512_set1_ps(0.0713548163f), _mm512_set1_ps(1.59576912f)));
  const __m512 s = _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), twice))));
  const __m512 turn = _mm512_mul_ps(x, _mm512_fmadd_ps(square, _mm512_set1_ps(0.214064449f), _mm512_set1_ps(1.59576912f)));
  return {_mm512_mul_ps(x, s), _mm512_mul_ps(s, _mm512_fmadd_ps(turn, _mm512_sub_ps(one, s), one))};
}

// x [rows, width], gate and up [width, hidden], down [hidden, width]. `rows`, `width` and `hidden` are multiples of 32.
struct Layer {
  int64_t rows, width, hidden;
  const uint16_t *x, *gate, *up, *down;

  Layer(const Narrow& x, const Narrow& gate, const Narrow& up, const Narrow& down)
      : rows(x.dimensions()[0]), width(x.dimensions()[1]), hidden(gate.dimensions()[1]), x(begin(x)), gate(begin(gate)), up(begin(up)), down(begin(down)) {}

  bool fits() const { return kind != Kind::kNone && rows % 32 == 0 && width % 32 == 0 && hidden % 32 == 0; }
};

ffi::Error Gated(ffi::ThreadPool pool, Narrow x, Narrow gate_weights, Narrow up_weights, Narrow down_weights, Made y) {
  const Layer layer(x, gate_weights, up_weights, down_weights);
  if (!layer.fits()) return refused();
  const int64_t width = layer.width, hidden = layer.hidden;
  const Columns gates(pool, layer.gate, hidden, false, hidden, width / 2), ups(pool, layer.up, hidden, false, hidden, width / 2);
  const Columns downs(pool, layer.down, width, false, width, hidden / 2);
  float* out = y->typed_data();
  const int64_t step = std::clamp<int64_t>((layer.rows / 32 + pool.num_threads() - 1) / pool.num_threads() * 32, 32, kRows);
  in_parts(pool, layer.rows, step, [&](int64_t row) {
    static thread_local std::vector<float> gate(kRows * kSlice), up(kRows * kSlice);
    static thread_local std::vector<uint16_t> both(kRows * kSlice);
    const int64_t rows = std::min(step, layer.rows - row);
    const Pair* in = as_pairs(layer.x + row * width);
    with_tiles([&](const auto& tile) {
      for (int64_t s = 0; s < hidden; s += kSlice) {
        const int64_t slice = std::min(kSlice, hidden - s);
        multiply(tile, rows, slice, width / 2, in, width / 2, gates.column(s), gates.step, gate.data(), slice, false);
        multiply(tile, rows, slice, width / 2, in, width / 2, ups.column(s), ups.step, up.data(), slice, false);
        for (int64_t i = 0; i < rows * slice; i += 16)
          store_narrow(_mm512_mul_ps(gelu(_mm512_loadu_ps(&gate[i])).value, _mm512_loadu_ps(&up[i])), &both[i]);
        multiply(tile, rows, width, slice / 2, as_pairs(both.data()), slice / 2, downs.pair(s / 2), downs.step, out + row * width, width, s > 0);
      }
    });
  });
  return ffi::Error::Success();
}

// The gradients of x, and of the weights by parts of the rows [kParts, ...], given that of y.
ffi::Error GatedBack(ffi::ThreadPool pool, Narrow x, Narrow gate_weights, Narrow up_weights, Narrow down_weights, Narrow grad, Made dx, Made dgate,
                     Made dup, Made ddown) {
  const Layer layer(x, gate_weights, up_weights, down_weights);
  if (!layer.fits() || dgate->dimensions()[0] != kParts) return refused();
  const int64_t width = layer.width, hidden = layer.hidden;
  const Columns gates(pool, layer.gate, hidden, false, hidden, width / 2), ups(pool, layer.up, hidden, false, hidden, width / 2);
  const Columns downs(pool, layer.down, width, true, hidden, width / 2);  // turned, as are the next two
  const Columns from_gate(pool, layer.gate, hidden, true, width, hidden / 2), from_up(pool, layer.up, hidden, true, width, hidden / 2);
  const uint16_t* slopes = begin(grad);
  float *to_x = dx->typed_data(), *to_gate = dgate->typed_data(), *to_up = dup->typed_data(), *to_down = ddown->typed_data();
  const int64_t each = (layer.rows / 32 + kParts - 1) / kParts * 32;  // rows of a part
  in_parts(pool, kParts, 1, [&](int64_t part) {
    static thread_local std::vector<float> gate(kRows * kSlice), up(kRows * kSlice), both(kRows * kSlice);
    static thread_local std::vector<uint16_t> made(kRows * kSlice), gate_slope(kRows * kSlice), up_slope(kRows * kSlice);
    static thread_local std::vector<Pair> left, turned(kSlice * kRows / 2);
    static thread_local std::vector<__m512i> right, columns(kSlice / 16 * kRows / 2);
    left.resize(width * kRows / 2), right.resize(width / 16 * kRows / 2);
    const int64_t size = part * width * hidden, first = std::min(part * each, layer.rows), last = std::min(first + each, layer.rows);
    float *gate_sum = to_gate + size, *up_sum = to_up + size, *down_sum = to_down + size;
    if (first == last) for (float* sum : {gate_sum, up_sum, down_sum}) std::fill_n(sum, width * hidden, 0.0f);
    with_tiles([&](const auto& tile) {
      for (int64_t row = first; row < last; row += kRows) {
        const int64_t rows = std::min(kRows, last - row), pairs = rows / 2;
        const uint16_t *in = layer.x + row * width, *slope = slopes + row * width;
        lay_rows(in, width, false, width, pairs, left.data(), pairs);
        lay_columns(slope, width, false, width, pairs, right.data(), pairs);
        for (int64_t s = 0; s < hidden; s += kSlice) {
          const int64_t slice = std::min(kSlice, hidden - s);
          multiply(tile, rows, slice, width / 2, as_pairs(in), width / 2, gates.column(s), gates.step, gate.data(), slice, false);
          multiply(tile, rows, slice, width / 2, as_pairs(in), width / 2, ups.column(s), ups.step, up.data(), slice, false);
          multiply(tile, rows, slice, width / 2, as_pairs(slope), width / 2, downs.column(s), downs.step, both.data(), slice, false);
          for (int64_t i = 0; i < rows * slice; i += 16) {
            const Gelu g = gelu(_mm512_loadu_ps(&gate[i]));
            const __m512 u = _mm512_loadu_ps(&up[i]), b = _mm512_loadu_ps(&both[i]);
            store_narrow(_mm512_mul_ps(g.value, u), &made[i]);
            store_narrow(_mm512_mul_ps(b, g.value), &up_slope[i]);
            store_narrow(_mm512_mul_ps(_mm512_mul_ps(b, u), g.slope), &gate_slope[i]);
          }
          multiply(tile, rows, width, slice / 2, as_pairs(gate_slope.data()), slice / 2, from_gate.pair(s / 2), from_gate.step, to_x + row * width, width, s > 0);
          multiply(tile, rows, width, slice / 2, as_pairs(up_slope.data()), slice / 2, from_up.pair(s / 2), from_up.step, to_x + row * width, width, true);
          lay_rows(made.data(), slice, false, slice, pairs, turned.data(), pairs);
          multiply(tile, slice, width, pairs, turned.data(), pairs, right.data(), pairs, down_sum + s * width, width, row > first);
          lay_columns(gate_slope.data(), slice, false, slice, pairs, columns.data(), pairs);
          multiply(tile, width, slice, pairs, left.data(), pairs, columns.data(), pairs, gate_sum + s, hidden, row > first);
          lay_columns(up_slope.data(), slice, false, slice, pairs, columns.data(), pairs);
          multiply(tile, width, slice, pairs, left.data(), pairs, columns.data(), pairs, up_sum + s, hidden, row > first);
        }
      }
    });
  });
  return ffi::Error::Success();
}
#endif

}  // namespace

#ifdef __AVX512BF16__
XLA_FFI_DEFINE_HANDLER_SYMBOL(gated, Gated,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Narrow>().Arg<Narrow>().Arg<Narrow>().Arg<Narrow>().Ret<ffi::Buffer<ffi::F32>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(gated_back, GatedBack,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Narrow>().Arg<Narrow>().Arg<Narrow>().Arg<Narrow>().Arg<Narrow>()
                                  .Ret<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>().Ret<ffi::Buffer<ffi::F32>>());
#endif
