// What index and plan search with, in f32. A part of tile_f32-inl.h, which includes it inside its
// namespace, once a target: hence no guard. Lanes are nodes in routing (see tile.h).

// Rough powers of two (Schraudolph 1999): as the bits of a float, kUnit x + kBias is a straight
// line from power to power that stays within 3 % of 2^x. Exponents are scaled once, below x = -126
// it is 2^-126.
constexpr float kUnit = 8388608.0f, kBias = (127.0f - 0.0430f) * kUnit;
HWY_INLINE V float_of_bits(V bits) {
  const D d;
  return hn::BitCast(d, hn::ConvertTo(I(), hn::Max(bits, hn::Set(d, kUnit))));
}

void add_totals(const float* s, std::ptrdiff_t s_vec, int vecs, int rows, float scale,
                const float* weight, float* m, float* l) {
  const D d;
  const V factor = hn::Set(d, scale * kUnit), unit = hn::Set(d, kUnit);
  alignas(64) float w[kMaxPiece * kLanes];  // in units of bits, as all that follows
  for (int i = 0; i < vecs * kParts; ++i)
    hn::Store(hn::Mul(hn::LoadU(d, weight + i * kN), unit), d, w + i * kN);
  for (int i = 0; i < rows * kParts; ++i) {  // machine vectors of (m, l)
    const int part = i % kParts * kN;
    const float* at = s + i / kParts * kLanes + part;
    const auto exponent = [&](int v) {
      return hn::MulAdd(hn::Load(d, at + v * s_vec), factor, hn::Load(d, w + v * kLanes + part));
    };
    const V m_old = hn::LoadU(d, m + i * kN);
    V top = hn::Mul(m_old, unit);
    for (int v = 0; v < vecs; ++v) top = hn::Max(top, exponent(v));
    const V less = hn::Sub(top, hn::Set(d, kBias));
    V sum = hn::Zero(d);
    for (int v = 0; v < vecs; ++v) sum = hn::Add(sum, float_of_bits(hn::Sub(exponent(v), less)));
    top = hn::Mul(top, hn::Set(d, 1 / kUnit));
    const V alpha = exp2_or_zero(hn::Sub(m_old, top));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, l + i * kN), alpha, sum), d, l + i * kN);
    hn::StoreU(top, d, m + i * kN);
  }
}

void add_log_sums(const float* s, std::ptrdiff_t s_vec, int vecs, int rows, float* m, float* l) {
  const D d;
  for (int i = 0; i < rows * kParts; ++i) {  // machine vectors of (m, l)
    const float* at = s + i / kParts * kLanes + i % kParts * kN;
    const V m_old = hn::LoadU(d, m + i * kN);
    V top = m_old, sum = hn::Zero(d);
    for (int v = 0; v < vecs; ++v) top = hn::Max(top, hn::Load(d, at + v * s_vec));
    for (int v = 0; v < vecs; ++v)
      sum = hn::Add(sum, exp2_or_zero(hn::Sub(hn::Load(d, at + v * s_vec), top)));
    const V alpha = exp2_or_zero(hn::Sub(m_old, top));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, l + i * kN), alpha, sum), d, l + i * kN);
    hn::StoreU(top, d, m + i * kN);
  }
}

void add_shares(const float* s, std::ptrdiff_t s_vec, int vecs, int rows, const float* total,
                double* sum) {
  const D d;
  alignas(64) float share[kN];
  for (int i = 0; i < vecs * kParts; ++i) {  // machine vectors of nodes
    const float* at = s + i / kParts * s_vec + i % kParts * kN;
    double all[kN];
    std::copy_n(sum + i * kN, kN, all);
    for (int row = 0; row < rows; ++row) {
      const V x = hn::Sub(hn::Load(d, at + row * kLanes), hn::Set(d, total[row]));
      hn::Store(exp2_or_zero(x), d, share);
      for (int j = 0; j < kN; ++j) all[j] += double{share[j]};
    }
    std::copy_n(all, kN, sum + i * kN);
  }
}

float total(const float* m, const float* l) {
  const D d;
  V top = hn::LoadU(d, m);
  for (int i = kN; i < kLanes; i += kN) top = hn::Max(top, hn::LoadU(d, m + i));
  top = hn::MaxOfLanes(d, top);
  V sum = hn::Zero(d);
  for (int i = 0; i < kLanes; i += kN)
    sum = hn::MulAdd(hn::LoadU(d, l + i), exp2_or_zero(hn::Sub(hn::LoadU(d, m + i), top)), sum);
  return hn::GetLane(top) + std::log2(hn::GetLane(hn::SumOfLanes(d, sum)));
}

// The upper 22 order-preserving bits: larger for larger x, zero for NaN.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> ordered(V x) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, hn::Add(x, hn::Zero(d)));
  const auto sign = hn::BitCast(du, hn::BroadcastSignBit(hn::BitCast(I(), bits)));
  const auto flip = hn::Or(sign, hn::Set(du, 0x80000000u));
  const auto number = hn::RebindMask(du, hn::Eq(x, x));
  return hn::ShiftRight<10>(hn::IfThenElseZero(number, hn::Xor(bits, flip)));
}

void rank_nodes(const float* s, std::ptrdiff_t s_vec, int vecs, int rows, float scale,
                const float* weight, const float* total, float* share, std::uint32_t* rank) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const V factor = hn::Set(d, scale * kUnit);
  const float part_of_mean = 1.0f / static_cast<float>(rows);
  for (int i = 0; i < vecs * kParts; ++i) {  // machine vectors of nodes
    const float* at = s + i / kParts * s_vec + i % kParts * kN;
    const auto part = [&](int row) {  // of one key; at most 1
      const V offset = hn::Set(d, kBias - total[row] * kUnit);
      return float_of_bits(hn::MulAdd(hn::Load(d, at + row * kLanes), factor, offset));
    };
    V a = hn::Zero(d), b = a;
    int row = 0;
    for (; row + 2 <= rows; row += 2) {
      a = hn::Add(a, part(row));
      b = hn::Add(b, part(row + 1));
    }
    if (row < rows) a = hn::Add(a, part(row));
    const V sum = hn::Mul(hn::Add(a, b), hn::Set(d, part_of_mean));
    hn::StoreU(ordered(sum), du, rank + i * kN);
    hn::StoreU(hn::Mul(sum, exp2_or_zero(hn::LoadU(d, weight + i * kN))), d, share + i * kN);
  }
}

void argmax(const float* s, int n, int n_pad, int vecs, const float* bias, std::uint16_t* best) {
  const D d;
  const I di;
  alignas(64) std::int32_t index[kLanes];
  for (int v = 0; v < vecs; ++v) {
    for (int part = 0; part < kParts; ++part) {
      const float* at = s + static_cast<std::ptrdiff_t>(v) * n_pad * kLanes + part * kN;
      V top = hn::Set(d, kMasked);
      auto which = hn::Zero(di);
      for (int j = 0; j < n; ++j) {
        const V x = hn::Add(hn::Load(d, at + j * kLanes), hn::Set(d, bias[j]));
        const auto better = hn::Gt(x, top);
        top = hn::IfThenElse(better, x, top);
        which = hn::IfThenElse(hn::RebindMask(di, better), hn::Set(di, j), which);
      }
      hn::Store(which, di, index + part * kN);
    }
    for (int i = 0; i < kLanes; ++i) best[v * kLanes + i] = static_cast<std::uint16_t>(index[i]);
  }
}

// Sum of the counts of all entries with rank >= t.
float weight_from(const std::uint32_t* rank, const float* count, int n, std::uint32_t t) {
  const D d;
  const I di;  // ranks are positive
  const auto below = hn::Set(di, static_cast<std::int32_t>(t) - 1);
  const auto counted = [&](int j) {
    const auto r = hn::LoadU(di, reinterpret_cast<const std::int32_t*>(rank) + j);
    return hn::IfThenElseZero(hn::RebindMask(d, hn::Gt(r, below)), hn::LoadU(d, count + j));
  };
  V sum[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int j = 0;
  for (; j + 4 * kN <= n; j += 4 * kN)
    for (int i = 0; i < 4; ++i) sum[i] = hn::Add(sum[i], counted(j + i * kN));
  for (; j + kN <= n; j += kN) sum[0] = hn::Add(sum[0], counted(j));
  float all =
      hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3]))));
  for (; j < n; ++j) all += rank[j] >= t ? count[j] : 0.0f;
  return all;
}

std::uint32_t threshold(std::uint32_t* rank, const float* count, int n, float limit) {
  // Bisection over the bits of the largest rank at which the weight is still too much, from the
  // first bit on in which ranks differ.
  const float all = weight_from(rank, count, n, 0);
  if (all <= limit) {
    for (int j = 0; j < n; ++j) rank[j] = std::max(rank[j], std::uint32_t{1});
    return 1;
  }
  std::uint32_t some = 0, every = ~std::uint32_t{0};
  for (int j = 0; j < n; ++j) some |= rank[j], every &= rank[j];
  const std::uint32_t first = std::bit_floor(some ^ every);
  std::uint32_t low = first == 0 ? every : every & ~(2 * first - 1);
  float within = 0;
  for (std::uint32_t bit = first; bit != 0; bit >>= 1) {
    const float weight = weight_from(rank, count, n, low | bit);
    if (weight > limit)
      low |= bit;
    else
      within = weight;  // of the lowest rank tried so far that is within the limit
  }
  const hn::RebindToUnsigned<D> du;
  const auto just_below = hn::Set(du, low);
  for (int j = 0; j < n && within < limit; j += kN) {
    if (j + kN <= n && hn::AllFalse(du, hn::Eq(hn::LoadU(du, rank + j), just_below))) continue;
    for (int i = j; i < std::min(j + kN, n); ++i)
      if (rank[i] == low && within + count[i] <= limit) {
        rank[i] = low + 1;
        within += count[i];
      }
  }
  return low + 1;
}

void partition(const std::int32_t* node, const std::uint32_t* rank, const float* share, int n,
               std::uint32_t threshold, float worth, std::int32_t* kept, int* n_kept,
               std::int32_t* others, int* n_others) {
  const D d;
  const I di;
  const auto below = hn::Set(di, static_cast<std::int32_t>(threshold) - 1);
  std::int32_t* const kept_begin = kept;
  std::int32_t* const others_begin = others;
  int j = 0;
  for (; j + kN <= n; j += kN) {
    const auto id = hn::LoadU(di, node + j);
    const auto keep = hn::Gt(hn::LoadU(di, reinterpret_cast<const std::int32_t*>(rank) + j), below);
    const auto large = hn::Gt(hn::LoadU(d, share + j), hn::Set(d, worth));
    kept += hn::CompressStore(id, keep, di, kept);
    others += hn::CompressStore(id, hn::AndNot(keep, hn::RebindMask(di, large)), di, others);
  }
  for (; j < n; ++j) {
    if (rank[j] >= threshold)
      *kept++ = node[j];
    else if (share[j] > worth)
      *others++ = node[j];
  }
  *n_kept = static_cast<int>(kept - kept_begin);
  *n_others = static_cast<int>(others - others_begin);
}
