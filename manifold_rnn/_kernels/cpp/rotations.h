// How far a vector turns in a step of Adam on spheres, from its products with the moment.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {

struct Turn {
    int64_t count, outer, length, inner, retraction, threads;
    float *const *x, *const *g, *const *m, *const *v;  // by parameter
    double radius;                                     // at most 0: that of x
    double beta1, beta2, rate, root, eps;              // root is that of the correction of v
};

// sin(t) / t of t^2; the series is exact up to rounding
double sinc(double square) {
    if (square < 0.04)
        return 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72 * (1 - square / 110))));
    const double t = std::sqrt(square);
    return std::sin(t) / t;
}

// sin(t) / s and (1 - cos(t)) / s^2 for the angle t by which a vector of length s, relative to the radius, turns
void rotation(int64_t retraction, double square, double& sine, double& half) {
    if (retraction == 0) {  // the geodesic
        sine = sinc(square);
        const double s = sinc(square / 4);
        half = 0.5 * s * s;
    } else if (retraction == 1) {  // Cayley
        sine = 1 / (1 + square / 4);
        half = 0.5 * sine;
    } else {  // projection
        const double root = std::sqrt(1 + square);
        sine = 1 / root;
        half = 1 / (root * (1 + root));
    }
}

constexpr double SMALL = 1e-18;  // sums of squares below it may have lost digits, as single precision has none below 1e-38

// The squared length of a - factor b, for vectors on a line.
double exact_square(int64_t length, const float* a, int64_t a_line, double factor, const float* b, int64_t b_line) {
    double sum = 0;
    for (int64_t i = 0; i < length; ++i) {
        const double c = a[i * a_line] - factor * b[i * b_line];
        sum += c * c;
    }
    return sum;
}

// What becomes of a vector: x + own x + other y, and a moment m of it that turns along, keep m + back x.
struct Factors {
    float own, other, keep, back;
};

// The factor that gives a x + b y a length.
double scale_to(double length, double a, double b, double xx, double xy, double yy) {
    const double square = a * a * xx + 2 * a * b * xy + b * b * yy;
    return square > 0 ? length / std::sqrt(square) : 1;
}

// What is left of a second moment v, by the squared length of the tangent part of a gradient, and the turn that Adam makes
// of it. Where rounding is all that is left of m, its product with x is not 0.
Factors by_length(const Turn& t, double xx, double mm, double xm, double tangent, float& v) {
    v = static_cast<float>(t.beta2 * v + (1 - t.beta2) * tangent);
    const double a = t.rate / (std::sqrt(static_cast<double>(v)) / t.root + t.eps);
    const double lever = mm / (t.radius * t.radius), square = a * a * lever;
    double sine, half;
    rotation(t.retraction, square, sine, half);
    const double cosine = 1 - square * half, along = sine * a;
    // the length that rounding has left is corrected on the way
    const double scale = scale_to(t.radius, cosine, along, xx, -xm, mm);
    return {static_cast<float>(scale * cosine - 1), static_cast<float>(-scale * along), static_cast<float>(cosine),
            static_cast<float>(along * lever)};
}

// The turn by the angle `rate`, towards u - radial x of squared length `tangent`, whose product with x is xu.
Factors by_angle(const Turn& t, double xx, double radial, double xu, double tangent) {
    const double size = t.radius > 0 ? t.radius : std::sqrt(xx), inside = std::sqrt(tangent);
    // a direction that is radial up to rounding is none
    if (inside <= 8 * 1.1920929e-07 * std::hypot(inside, radial * size)) return {};
    const double half = std::sin(0.5 * t.rate), along = std::sin(t.rate) * size / inside;
    const double cosine = 1 - 2 * half * half;
    const double scale = scale_to(size, cosine, along, xx, xu, tangent);
    return {static_cast<float>(scale * cosine - 1 - scale * along * radial), static_cast<float>(scale * along), 0, 0};
}

}  // namespace
