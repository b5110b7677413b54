// Nonlinearities of a vector at a time, and their derivatives.

#pragma once

#include <cmath>

#include "vectors.h"

namespace {

template <class T>
inline Vec<T> where(Int<T> mask, Vec<T> x) {
    return (Vec<T>)(mask & (Int<T>)x);
}

template <class T>
inline Vec<T> magnitude(Vec<T> x) {
    return (Vec<T>)((Int<T>)x & ~(Int<T>{} + Vector<T>::sign));
}

template <class T>
inline Vec<T> sign_of(Vec<T> x) {
    const Int<T> signs = (Int<T>)x & (Int<T>{} + Vector<T>::sign);
    return where<T>((Int<T>)(x < 0) | (Int<T>)(x > 0), (Vec<T>)((Int<T>)(Vec<T>{} + T(1)) | signs));
}

template <class T>
inline Vec<T> rectify(Vec<T> x) {  // where it is NaN, it stays so
    return where<T>(~(Int<T>)(x <= 0), x);
}

// exp(y) = power (1 + rest) for y of at most 0 that is not below the smallest exponent.
template <class T>
struct Exponential {
    Vec<T> power, rest;
    explicit Exponential(Vec<T> y) {
        using N = Vector<T>;
        const T shift = T(int64_t(3) << (N::mantissa - 1));  // what is added to it is rounded to a whole number
        const Vec<T> moved = y * T(1.4426950408889634) + shift, whole = moved - shift;
        const Vec<T> r = (y - whole * N::ln2_high) - whole * N::ln2_low;
        Vec<T> p = Vec<T>{} + T(1);
#pragma GCC unroll 16
        for (int k = N::terms; k > 1; --k) p = T(1) + p * (r * T(1.0 / k));
        power = (Vec<T>)(((Int<T>)moved << N::mantissa) + (Int<T>)(Vec<T>{} + T(1)));
        rest = p * r;
    }
};

template <class T>
inline Vec<T> select(Int<T> mask, Vec<T> x, Vec<T> y) {
    return (Vec<T>)((mask & (Int<T>)x) | (~mask & (Int<T>)y));
}

template <class T>
inline Vec<T> at_most(Vec<T> x, T limit) {  // where it is NaN, it stays so
    return select<T>((Int<T>)(x > limit), Vec<T>{} + limit, x);
}

// tanh |x| = -e / (2 + e) with e = exp(-2 |x|) - 1, which is small, and accurate, where x is.
template <class T>
inline Vec<T> tanh_of(Vec<T> x) {
    const Exponential<T> exp(T(-2) * at_most<T>(magnitude<T>(x), Vector<T>::far));
    const Vec<T> e = exp.power * exp.rest + (exp.power - T(1));
    const Vec<T> t = -e / (e + T(2));
    return (Vec<T>)((Int<T>)t | ((Int<T>)x & (Int<T>{} + Vector<T>::sign)));
}

// 1 / (1 + exp(-x)), by exp(-|x|), so that small values are accurate. Those below the smallest normal number are 0.
template <class T>
inline Vec<T> sigmoid_of(Vec<T> x) {
    const Vec<T> size = magnitude<T>(x);
    const Exponential<T> exp(-at_most<T>(size, Vector<T>::farthest));
    const Vec<T> e = where<T>(~(Int<T>)(size > Vector<T>::farthest), exp.power * exp.rest + exp.power);
    return select<T>((Int<T>)(x < 0), e, Vec<T>{} + T(1)) / (e + T(1));
}

template <class T>
inline Vec<T> swapped(Vec<T> x) {  // neighbours
    Vec<T> y;
    for (int l = 0; l < LANES<T>; ++l) y[l] = x[l ^ 1];
    return y;
}

// Nonlinearities: of z given the threshold b; and the gradient of z given that of h, which may add to that of b.
struct Linear {
    static constexpr bool keeps = false;
    template <class T>
    static Vec<T> apply(Vec<T> z, Vec<T>) {
        return z;
    }
    template <class T>
    static Vec<T> back(Vec<T> g, Vec<T>, Vec<T>, Vec<T>&) {
        return g;
    }
};

struct Relu : Linear {
    template <class T>
    static Vec<T> apply(Vec<T> z, Vec<T>) {
        return rectify<T>(z);
    }
    template <class T>
    static Vec<T> back(Vec<T> g, Vec<T> h, Vec<T>, Vec<T>&) {
        return where<T>(~(Int<T>)(h <= 0), g);
    }
};

struct Tanh : Linear {
    template <class T>
    static Vec<T> apply(Vec<T> z, Vec<T>) {
        return tanh_of<T>(z);
    }
    template <class T>
    static Vec<T> back(Vec<T> g, Vec<T> h, Vec<T>, Vec<T>&) {
        return g * (T(1) - h * h);
    }
};

struct ModRelu : Linear {
    template <class T>
    static Vec<T> apply(Vec<T> z, Vec<T> b) {
        return sign_of<T>(z) * rectify<T>(magnitude<T>(z) + b);
    }
    template <class T>
    static Vec<T> back(Vec<T> g, Vec<T> h, Vec<T>, Vec<T>& sum) {
        const Vec<T> sign = sign_of<T>(h), passed = where<T>(h != 0, g);  // the sign of NaN is 0, as torch has it
        sum += sign * passed;
        return sign * sign * passed;
    }
};

struct ComplexModRelu {  // pairs of real and imaginary part, with a modulus that is smoothed
    static constexpr bool keeps = true;
    template <class T>
    static Vec<T> inverse_modulus(Vec<T> z) {  // numbers whose squares would overflow are scaled first
        using N = Vector<T>;
        const Vec<T> size = magnitude<T>(z);
        const Int<T> large = (Int<T>)(size > Vec<T>{} + N::large) | (Int<T>)(swapped<T>(size) > Vec<T>{} + N::large);
        const Vec<T> scale = (Vec<T>)((large & (Int<T>)(Vec<T>{} + N::scale)) | (~large & (Int<T>)(Vec<T>{} + T(1))));
        const Vec<T> part = z * scale, square = part * part;
        Vec<T> r = square + swapped<T>(square) + T(1e-5) * scale * scale;
        for (int l = 0; l < LANES<T>; ++l) r[l] = std::sqrt(r[l]);
        return scale / r;
    }
    template <class T>
    static Vec<T> apply(Vec<T> z, Vec<T> b) {
        return z * rectify<T>(inverse_modulus<T>(z) * b + T(1));
    }
    template <class T>
    static Vec<T> back(Vec<T> g, Vec<T> z, Vec<T> b, Vec<T>& sum) {
        const Vec<T> inverse = inverse_modulus<T>(z), slope = b * inverse, scale = rectify<T>(slope + T(1));
        const Vec<T> phase = z * inverse, along = phase * g;
        const Int<T> passes = ~(Int<T>)(scale <= 0);
        const Vec<T> radial = where<T>(passes, along + swapped<T>(along));
        sum += radial;
        return g * scale - phase * where<T>(passes, radial * slope);  // where none passes, b may be infinite
    }
};

}  // namespace
