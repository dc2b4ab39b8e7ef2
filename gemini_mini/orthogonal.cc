// Newton-Schulz of many matrices, each by one thread in its caches: by products one after another, most of the time goes to starting them.
// Registered by matmul.py. Products are in bfloat16, all else is float32. Source: Muon, Jordan 2024.

#include "tiles.h"

namespace {

#ifdef __AVX512BF16__
using Matrix = ffi::Buffer<ffi::F32>;

void round_all(const float* from, int64_t count, uint16_t* to) {
  for (int64_t i = 0; i < count; i += 16) store_narrow(_mm512_loadu_ps(from + i), to + i);
}

// x becomes first x + (third s + fifth s s) x with s = x x', `steps` times. `rows` and `cols` are multiples of 32.
template <typename Tile>
void newton_schulz(const Tile& tile, int64_t rows, int64_t cols, int64_t steps, float first, float third, float fifth, float* x) {
  std::vector<uint16_t> narrow(rows * cols), factor(rows * rows);
  std::vector<float> square(rows * rows), fourth(rows * rows);
  std::vector<__m512i> columns(std::max(rows, cols) * rows / 32);
  for (int64_t step = 0; step < steps; ++step) {
    round_all(x, rows * cols, narrow.data());
    lay_columns(narrow.data(), cols, true, rows, cols / 2, columns.data(), cols / 2);
    multiply(tile, rows, rows, cols / 2, as_pairs(narrow.data()), cols / 2, columns.data(), cols / 2, square.data(), rows, false);
    round_all(square.data(), rows * rows, factor.data());
    lay_columns(factor.data(), rows, true, rows, rows / 2, columns.data(), rows / 2);
    multiply(tile, rows, rows, rows / 2, as_pairs(factor.data()), rows / 2, columns.data(), rows / 2, fourth.data(), rows, false);
    for (int64_t i = 0; i < rows * rows; ++i) square[i] = third * square[i] + fifth * fourth[i];
    round_all(square.data(), rows * rows, factor.data());
    lay_columns(narrow.data(), cols, false, cols, rows / 2, columns.data(), rows / 2);
    for (int64_t i = 0; i < rows * cols; ++i) x[i] *= first;
    multiply(tile, rows, cols, rows / 2, as_pairs(factor.data()), rows / 2, columns.data(), rows / 2, x, cols, true);
  }
}

ffi::Error Orthogonal(ffi::ThreadPool pool, ffi::RemainingArgs given, ffi::RemainingRets made, int64_t steps, float first, float third, float fifth) {
  if (kind == Kind::kNone) return refused();
  struct Work {
    int64_t rows, cols;
    const float* from;
    float* to;
  };
  std::vector<Work> all;
  for (size_t i = 0; i < given.size(); ++i) {
    const auto from = given.get<Matrix>(i);
    auto to = made.get<Matrix>(i);
    if (!from || !to || from->dimensions()[0] % 32 || from->dimensions()[1] % 32) return refused();
    all.push_back({from->dimensions()[0], from->dimensions()[1], from->typed_data(), (*to)->typed_data()});
  }
  // The largest first, so that no thread is left alone with one at the end.
  std::stable_sort(all.begin(), all.end(), [](const Work& a, const Work& b) { return a.rows * a.rows * a.cols > b.rows * b.rows * b.cols; });
  in_parts(pool, all.size(), 1, [&](int64_t i) {
    std::copy_n(all[i].from, all[i].rows * all[i].cols, all[i].to);
    with_tiles([&](const auto& tile) { newton_schulz(tile, all[i].rows, all[i].cols, steps, first, third, fifth, all[i].to); });
  });
  return ffi::Error::Success();
}
#endif

}  // namespace

#ifdef __AVX512BF16__
XLA_FFI_DEFINE_HANDLER_SYMBOL(orthogonal, Orthogonal,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attr<int64_t>("steps")
                                  .Attr<float>("first").Attr<float>("third").Attr<float>("fifth"));
#endif
