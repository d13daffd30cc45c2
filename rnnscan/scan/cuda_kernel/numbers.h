// Numbers as they are stored, and as they are computed: halves in float.

#pragma once

#define INLINE DEVICE
#include "shared/halves.h"

namespace rnnscan {

template <class R>
struct Complex {
  R re, im;
};

DEVICE float multiply(float a, float x) { return a * x; }
DEVICE double multiply(double a, double x) { return a * x; }
DEVICE float multiply_add(float a, float x, float y) { return a * x + y; }
DEVICE double multiply_add(double a, double x, double y) { return a * x + y; }

template <class R>
DEVICE Complex<R> operator+(Complex<R> x, Complex<R> y) {
  return {x.re + y.re, x.im + y.im};
}
template <class R>
DEVICE Complex<R> multiply(Complex<R> a, Complex<R> x) {
  return {a.re * x.re - a.im * x.im, a.re * x.im + a.im * x.re};
}
template <class R>
DEVICE Complex<R> multiply_add(Complex<R> a, Complex<R> x, Complex<R> y) {
  return {a.re * x.re - a.im * x.im + y.re, a.re * x.im + a.im * x.re + y.im};
}

template <class Number>
struct Plain {
  using Stored = Number;
  using Wide = Number;
  static DEVICE Wide widen(Stored x) { return x; }
  static DEVICE Stored round(Wide x) { return x; }
};
struct F32 : Plain<float> {};
struct F64 : Plain<double> {};
struct C64 : Plain<Complex<float>> {};
struct C128 : Plain<Complex<double>> {};

struct BF16 {
  using Stored = uint16_t;
  using Wide = float;
  static DEVICE float widen(uint16_t x) { return widen_bf16(x); }
  static DEVICE uint16_t round(float x) { return round_bf16(x); }
};
struct F16 {
  using Stored = uint16_t;
  using Wide = float;
  static DEVICE float widen(uint16_t x) { return widen_f16(x); }
  static DEVICE uint16_t round(float x) { return round_f16(x); }
};

template <Type>
struct NumberOf;
template <> struct NumberOf<Type::f16> { using N = F16; };
template <> struct NumberOf<Type::bf16> { using N = BF16; };
template <> struct NumberOf<Type::f32> { using N = F32; };
template <> struct NumberOf<Type::f64> { using N = F64; };
template <> struct NumberOf<Type::c64> { using N = C64; };
template <> struct NumberOf<Type::c128> { using N = C128; };

// A number of another lane.
template <class T>
DEVICE T shuffle_number(T x, int lane) {
  union {
    T number;
    uint32_t words[sizeof(T) / 4];
  } u{x};
  UNROLL
  for (unsigned i = 0; i < sizeof(T) / 4; ++i) u.words[i] = shuffle(u.words[i], lane);
  return u.number;
}

}  // namespace rnnscan
