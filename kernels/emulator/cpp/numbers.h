// Types, conversions, arithmetic and atomics of CUDA, on the host.
//
// bf16 and half have no operators here: a kernel converts to f32 and back, so that both compilers round alike.
#pragma once

#define EMU_VECTORS(T, B)                                                     \
  struct alignas(2 * sizeof(B)) T##2 {                                        \
    B x, y;                                                                   \
  };                                                                          \
  struct alignas(4 * sizeof(B)) T##4 {                                        \
    B x, y, z, w;                                                             \
  };                                                                          \
  inline T##2 make_##T##2(B x, B y) { return {x, y}; }                        \
  inline T##4 make_##T##4(B x, B y, B z, B w) { return {x, y, z, w}; }        \
  template <>                                                                 \
  inline constexpr bool emu_is_vector<T##2> = true;                           \
  template <>                                                                 \
  inline constexpr bool emu_is_vector<T##4> = true;
template <class T>
inline constexpr bool emu_is_vector = false;
EMU_VECTORS(float, float)
EMU_VECTORS(int, int)
EMU_VECTORS(uint, unsigned)

// nvcc has this for built-in types only.
template <class T>
inline T __ldg(const T* p) {
  static_assert(std::is_arithmetic_v<T> || emu_is_vector<T>, "__ldg is for built-in types");
  return *p;
}

template <class T, class F>
inline T emu_modify(T* p, F change) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  static_assert(sizeof(T) == sizeof(Bits), "atomics are four or eight bytes wide");
  Bits* at = reinterpret_cast<Bits*>(p);
  Bits old = __atomic_load_n(at, __ATOMIC_RELAXED), wanted;
  do {
    wanted = emu::bits<Bits>(change(emu::bits<T>(old)));
  } while (!__atomic_compare_exchange_n(at, &old, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return emu::bits<T>(old);
}
template <class T>
inline T atomicAdd(T* p, T v) {
  return emu_modify(p, [=](T old) { return static_cast<T>(old + v); });
}
template <class T>
inline T atomicMax(T* p, T v) {
  return emu_modify(p, [=](T old) { return old < v ? v : old; });
}
template <class T>
inline T atomicMin(T* p, T v) {
  return emu_modify(p, [=](T old) { return v < old ? v : old; });
}
template <class T>
inline T atomicExch(T* p, T v) {
  return emu_modify(p, [=](T) { return v; });
}
template <class T>
inline T atomicCAS(T* p, T expected, T v) {
  return emu_modify(p, [=](T old) { return old == expected ? v : old; });
}

using std::max;
using std::min;
inline float __expf(float x) { return expf(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
// Without contraction on the host these round as CUDA's do.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline unsigned __float_as_uint(float f) { return emu::bits<unsigned>(f); }
inline float __uint_as_float(unsigned u) { return emu::bits<float>(u); }
inline int __popc(unsigned u) { return __builtin_popcount(u); }
inline int __ffs(int u) { return __builtin_ffs(u); }
inline int __clz(int u) { return u ? __builtin_clz(static_cast<unsigned>(u)) : 32; }
// Four bytes among the eight of both: a digit of `which` for each, none of them above 7.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned which) {
  uint64_t both = low | static_cast<uint64_t>(high) << 32;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= static_cast<unsigned>(both >> (which >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return result;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 b) { return __uint_as_float(static_cast<unsigned>(b.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
  unsigned u = __float_as_uint(f);
  unsigned rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>(f != f ? 0x7fff : rounded)};
}
inline float __half2float(__half h) { return static_cast<float>(emu::bits<_Float16>(h)); }
inline __half __float2half_rn(float f) { return emu::bits<__half>(static_cast<_Float16>(f)); }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 b) { return b.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half h) { return h.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
