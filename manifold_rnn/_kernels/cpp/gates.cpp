// What the steps of gated cells do between two products, for the rows of a batch.
//
// The arguments of gates are blocks of n columns. A matrix of blocks has rows that are apart; those of states are not.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "exports.h"
#include "nonlinearities.h"
#include "vectors.h"

namespace {

// Call work(row, column, lanes) for each vector of n columns.
template <class T, class Work>
inline void each(int64_t rows, int64_t n, Work work) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < n; c += LANES<T>) work(r, c, std::min<int64_t>(LANES<T>, n - c));
}

template <class T>
void tanh_rows(const T* z, T* out, int64_t rows, int64_t n, int64_t z_row, int64_t out_row) {
    each<T>(rows, n, [&](int64_t r, int64_t c, int64_t l) {
        write(out + r * out_row + c, tanh_of<T>(read(z + r * z_row + c, l)), l);
    });
}

// c' = f c + i g and h' = o tanh c', from the arguments a of i, f, g and o, whose values are written to K.
template <class T>
void lstm_forward(const T* a, T* K, const T* c, T* next_c, T* next_h, int64_t rows, int64_t n) {
    each<T>(rows, n, [&](int64_t r, int64_t j, int64_t l) {
        const T* from = a + r * 4 * n + j;
        T* to = K + r * 4 * n + j;
        const int64_t at = r * n + j;
        const Vec<T> i = sigmoid_of<T>(read(from, l)), f = sigmoid_of<T>(read(from + n, l));
        const Vec<T> g = tanh_of<T>(read(from + 2 * n, l)), o = sigmoid_of<T>(read(from + 3 * n, l));
        const Vec<T> next = f * read(c + at, l) + i * g;
        write(to, i, l);
        write(to + n, f, l);
        write(to + 2 * n, g, l);
        write(to + 3 * n, o, l);
        write(next_c + at, next, l);
        write(next_h + at, o * tanh_of<T>(next), l);
    });
}

// The gradients gK of the arguments and gc of c, from those of h' and c'.
template <class T>
void lstm_backward(const T* K, const T* c, const T* next_c, const T* gh, T* gc, T* gK, int64_t rows, int64_t n) {
    each<T>(rows, n, [&](int64_t r, int64_t j, int64_t l) {
        const T* from = K + r * 4 * n + j;
        T* to = gK + r * 4 * n + j;
        const int64_t at = r * n + j;
        const Vec<T> i = read(from, l), f = read(from + n, l), g = read(from + 2 * n, l), o = read(from + 3 * n, l);
        const Vec<T> t = tanh_of<T>(read(next_c + at, l)), of_h = read(gh + at, l);
        const Vec<T> of_c = read(gc + at, l) + of_h * (o * (T(1) - t * t));
        write(to, of_c * (g * (T(1) - i) * i), l);
        write(to + n, of_c * (read(c + at, l) * (T(1) - f) * f), l);
        write(to + 2 * n, of_c * (i * (T(1) - g * g)), l);
        write(to + 3 * n, of_h * (t * (T(1) - o) * o), l);
        write(gc + at, of_c * f, l);
    });
}

// a and c of LEM times the time step, p = tanh, in place of their arguments; and z' = z + c (p - z).
template <class T>
void lem_forward(T* K, const T* z, T* next_z, int64_t rows, int64_t n, double step) {
    each<T>(rows, n, [&](int64_t r, int64_t j, int64_t l) {
        T* to = K + r * 4 * n + j;
        const Vec<T> a = T(step) * sigmoid_of<T>(read(to, l)), c = T(step) * sigmoid_of<T>(read(to + n, l));
        const Vec<T> p = tanh_of<T>(read(to + 2 * n, l)), before = read(z + r * n + j, l);
        write(to, a, l);
        write(to + n, c, l);
        write(to + 2 * n, p, l);
        write(next_z + r * n + j, before + c * (p - before), l);
    });
}

// y' = y + a (q - y) with q = tanh, in place of its argument.
template <class T>
void relax_forward(const T* a, T* q, const T* y, T* next_y, int64_t rows, int64_t n, int64_t row) {
    each<T>(rows, n, [&](int64_t r, int64_t j, int64_t l) {
        const Vec<T> value = tanh_of<T>(read(q + r * row + j, l)), before = read(y + r * n + j, l);
        write(q + r * row + j, value, l);
        write(next_y + r * n + j, before + read(a + r * row + j, l) * (value - before), l);
    });
}

// The gradients of both arguments, of a and of q, and that of y in place of that of y'.
template <class T>
void relax_backward(const T* a, const T* q, const T* y, T* g, T* ga, T* gq, int64_t rows, int64_t n, int64_t row,
                    double step) {
    each<T>(rows, n, [&](int64_t r, int64_t j, int64_t l) {
        const Vec<T> opening = read(a + r * row + j, l), value = read(q + r * row + j, l);
        const Vec<T> of_y = read(g + r * n + j, l), rest = T(1) - opening / T(step);  // exactly 0 of an open gate
        write(ga + r * row + j, of_y * ((value - read(y + r * n + j, l)) * opening * rest), l);
        write(gq + r * row + j, of_y * (opening * (T(1) - value * value)), l);
        write(g + r * n + j, of_y * (T(1) - opening), l);
    });
}

// r and z = sigmoid and n = f(u + r v) in place of their arguments, v kept; and h' = n + z (h - n). f is modReLU with
// these thresholds, or tanh if there are none.
template <class T>
void reset_forward(T* K, const T* thresholds, const T* h, T* next_h, int64_t rows, int64_t n) {
    each<T>(rows, n, [&](int64_t row, int64_t j, int64_t l) {
        T* to = K + row * 4 * n + j;
        const Vec<T> r = sigmoid_of<T>(read(to, l)), z = sigmoid_of<T>(read(to + n, l));
        const Vec<T> u = read(to + 3 * n, l) + r * read(to + 2 * n, l), before = read(h + row * n + j, l);
        const Vec<T> value = thresholds ? ModRelu::apply<T>(u, read(thresholds + j, l)) : tanh_of<T>(u);
        write(to, r, l);
        write(to + n, z, l);
        write(to + 3 * n, value, l);
        write(next_h + row * n + j, value + z * (before - value), l);
    });
}

// tanh(|z|) / |z / 4| of numbers with these parts, for moduli that may overflow; 4 at 0.
template <class T>
inline Vec<T> tanh_ratio(Vec<T> re, Vec<T> im) {
    const Vec<T> x = magnitude<T>(re) * T(0.25), y = magnitude<T>(im) * T(0.25);
    const Int<T> first = (Int<T>)(x > y);
    const Vec<T> most = select<T>(first, x, y), least = Vec<T>{} + Vector<T>::smallest;
    const Vec<T> scale = select<T>((Int<T>)(most < least), least, most);  // below it tanh is the identity
    const Vec<T> u = x / scale, v = y / scale;
    Vec<T> r = u * u + v * v;
    for (int l = 0; l < LANES<T>; ++l) r[l] = std::sqrt(r[l]);
    r *= scale;
    r = select<T>((Int<T>)(r < least), least, r);
    return tanh_of<T>(r * T(4)) / r;
}

// The same as lstm_forward for parts of complex numbers, from the arguments of i, f, o and both parts of g's.
template <class T>
void complex_lstm_forward(const T* a, T* K, const T* c, T* next_c, T* next_h, int64_t rows, int64_t n) {
    each<T>(rows, n, [&](int64_t r, int64_t j, int64_t l) {
        const T* from = a + r * 5 * n + j;
        T* to = K + r * 5 * n + j;
        const int64_t at = r * 2 * n + j;
        const Vec<T> i = sigmoid_of<T>(read(from, l)), f = sigmoid_of<T>(read(from + n, l));
        const Vec<T> o = sigmoid_of<T>(read(from + 2 * n, l));
        const Vec<T> re = read(from + 3 * n, l), im = read(from + 4 * n, l), in = i * tanh_ratio<T>(re, im);
        const Vec<T> next_re = f * read(c + at, l) + in * (re * T(0.25));
        const Vec<T> next_im = f * read(c + at + n, l) + in * (im * T(0.25));
        const Vec<T> out = o * tanh_ratio<T>(next_re, next_im);
        write(to, i, l);
        write(to + n, f, l);
        write(to + 2 * n, o, l);
        write(to + 3 * n, re, l);
        write(to + 4 * n, im, l);
        write(next_c + at, next_re, l);
        write(next_c + at + n, next_im, l);
        write(next_h + at, out * (next_re * T(0.25)), l);
        write(next_h + at + n, out * (next_im * T(0.25)), l);
    });
}

// What k heads write to a memory of (s / k) s entries and erase from it, from strengths and both factors of directions:
// the sum over the heads of strength p / |p| (q / |q|)^T, less where a product of norms is below half the smallest one.
template <class T>
void nru_forward(const T* z, const T* c, T* next_c, int64_t rows, int64_t k, int64_t s, int64_t z_row, double smallest) {
    const int64_t m = s / k;
    const auto norm = [](const T* x, int64_t count) {  // the 5-norm, whose powers do not overflow
        T most = 0, sum = 0;
        for (int64_t i = 0; i < count; ++i) most = std::abs(x[i]) <= most ? most : std::abs(x[i]);
        const T scale = std::max(most, std::numeric_limits<T>::min());
        for (int64_t i = 0; i < count; ++i) {
            const T y = std::abs(x[i]) / scale, square = y * y;
            sum += square * square * y;
        }
        return std::pow(sum, T(0.2)) * scale;
    };
    Buffer<T> weights(2 * m);
    for (int64_t r = 0; r < rows; ++r, z += z_row, c += m * s, next_c += m * s) {
        std::copy(c, c + m * s, next_c);
        for (int part = 0; part < 2; ++part) {
            const T *strength = z + part * k, *p = z + 2 * k + part * 2 * s, *q = p + s;
            const T of_q = norm(q, s), least = std::numeric_limits<T>::min();
            T* w = weights + part * m;
            std::fill(w, w + m, T(0));
            for (int64_t i = 0; i < k; ++i) {
                const T of_p = norm(p + i * m, m), product = of_p * of_q * T(2 / smallest);
                const T factor = strength[i] * (product > 1 ? T(1) : product) / (of_p > least ? of_p : least);
                for (int64_t j = 0; j < m; ++j) w[j] += factor * p[i * m + j];
            }
            const T over = (part ? -1 : 1) / (T(k) * (of_q > least ? of_q : least));
            for (int64_t j = 0; j < m; ++j)
                for (int64_t l = 0; l < s; ++l) next_c[j * s + l] += w[j] * over * q[l];
        }
    }
}

}  // namespace

#define FUNCTIONS(T, NAME)                                                                                            \
    EXPORTED void tanh_##NAME(const T* z, T* out, int64_t rows, int64_t n, int64_t z_row, int64_t out_row) {           \
        tanh_rows(z, out, rows, n, z_row, out_row);                                                                   \
    }                                                                                                                 \
    EXPORTED void lstm_forward_##NAME(const T* a, T* K, const T* c, T* next_c, T* next_h, int64_t rows, int64_t n) {   \
        lstm_forward(a, K, c, next_c, next_h, rows, n);                                                               \
    }                                                                                                                 \
    EXPORTED void lstm_backward_##NAME(const T* K, const T* c, const T* next_c, const T* gh, T* gc, T* gK,             \
                                       int64_t rows, int64_t n) {                                                     \
        lstm_backward(K, c, next_c, gh, gc, gK, rows, n);                                                             \
    }                                                                                                                 \
    EXPORTED void lem_forward_##NAME(T* K, const T* z, T* next_z, int64_t rows, int64_t n, double step) {              \
        lem_forward(K, z, next_z, rows, n, step);                                                          \
    }                                                                                                                 \
    EXPORTED void relax_forward_##NAME(const T* a, T* q, const T* y, T* next_y, int64_t rows, int64_t n,               \
                                       int64_t row) {                                                                 \
        relax_forward(a, q, y, next_y, rows, n, row);                                                                 \
    }                                                                                                                 \
    EXPORTED void relax_backward_##NAME(const T* a, const T* q, const T* y, T* g, T* ga, T* gq, int64_t rows,          \
                                        int64_t n, int64_t row, double step) {                                        \
        relax_backward(a, q, y, g, ga, gq, rows, n, row, step);                                                       \
    }                                                                                                                 \
    EXPORTED void reset_forward_##NAME(T* K, const T* thresholds, const T* h, T* next_h, int64_t rows, int64_t n) {    \
        reset_forward(K, thresholds, h, next_h, rows, n);                                                             \
    }                                                                                                                 \
    EXPORTED void complex_lstm_forward_##NAME(const T* a, T* K, const T* c, T* next_c, T* next_h, int64_t rows,        \
                                              int64_t n) {                                                            \
        complex_lstm_forward(a, K, c, next_c, next_h, rows, n);                                                       \
    }                                                                                                                 \
    EXPORTED int nru_forward_##NAME(const T* z, const T* c, T* next_c, int64_t rows, int64_t k, int64_t s,             \
                                    int64_t z_row, double smallest) {                                                 \
        try {                                                                                                         \
            nru_forward(z, c, next_c, rows, k, s, z_row, smallest);                                                   \
            return 0;                                                                                                 \
        } catch (const std::bad_alloc&) {                                                                             \
            return 1;                                                                                                 \
        }                                                                                                             \
    }

extern "C" {
FUNCTIONS(float, float)
FUNCTIONS(double, double)
}
