// Steps of orthogonal weights: what a call is given, and the rules of the optimizers on coordinates.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {

enum Rule : int64_t { DESCENT, MOMENTUM, ADAM };
enum Retraction : int64_t { EXP, CAYLEY, QR, POLAR };
enum Number { SIGN, RATE, KEEP, FRESH, NESTEROV, FIRST = 2, DECAY, SECOND, CORRECT_SECOND, CORRECT_FIRST, EPS, NUMBERS };

}  // namespace

template <class T>
struct Steps {
    int64_t count, n, rule, retraction, polish;
    int64_t x_by_columns, g_by_columns, threads;
    T* const* x;
    const T* const* g;
    T *const *m, *const *v;  // packed moments; null where there are none yet
    T* buffer;               // of zeros before the first call, long enough for the results and the work of each thread
    double numbers[NUMBERS];
};

namespace {

// Squares of larger coordinates would make a second moment infinite. NaN has no bound either.
template <class T>
bool has_squares(double sum) {
    return sum < 1e-6 * std::numeric_limits<T>::max();
}

// How far y^T y may be from the identity after a step.
template <class T>
double rounding(int64_t n) {
    return std::numeric_limits<T>::epsilon() * std::max(4.0, std::sqrt(static_cast<double>(n)));
}

// Where the results of a step are kept until they are written: a weight, a first and a second moment.
template <class T>
class Results {
  public:
    static constexpr int64_t CACHE_LINE = 64 / sizeof(T), PADDING = CACHE_LINE;  // a vector may be written past an end

    explicit Results(const Steps<T>& s) : s_(s), d_(coordinates(s.n)), each_(room(s.n)) {}

    static int64_t coordinates(int64_t n) { return n * (n - 1) / 2; }
    static int64_t room(int64_t n) { return whole(n * n + 2 * (coordinates(n) + PADDING)); }
    static int64_t whole(int64_t size) { return (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE; }

    T* weight(int64_t i) const { return s_.buffer + i * each_; }
    T* first(int64_t i) const { return weight(i) + s_.n * s_.n; }
    T* second(int64_t i) const { return first(i) + d_ + PADDING; }

    void commit() const {
        for (int64_t i = 0; i < s_.count; ++i) {
            std::memcpy(s_.x[i], weight(i), s_.n * s_.n * sizeof(T));
            if (s_.rule != DESCENT) std::copy_n(first(i), d_, s_.m[i]);
            if (s_.rule == ADAM) std::copy_n(second(i), d_, s_.v[i]);
        }
    }

    // The coordinates of the gradient of weight i become those of the direction of its step.
    void direction(int64_t i, T* c) const {
        if (s_.rule == MOMENTUM) momentum(s_.m[i], first(i), c);
        if (s_.rule == ADAM) adam(s_.m[i], s_.v[i], first(i), second(i), c);
    }

  private:
    const Steps<T>& s_;
    const int64_t d_, each_;

    T number(Number which) const { return static_cast<T>(s_.numbers[which]); }

    void momentum(const T* before, T* __restrict after, T* __restrict c) const {
        const T keep = number(KEEP), fresh = number(FRESH);
        for (int64_t k = 0; k < d_; ++k) after[k] = (before ? keep * before[k] : 0) + fresh * c[k];
        if (number(NESTEROV) != 0)
            for (int64_t k = 0; k < d_; ++k) c[k] += keep * after[k];
        else
            std::memcpy(c, after, d_ * sizeof(T));
    }

    void adam(const T* before, const T* square, T* __restrict m, T* __restrict v, T* __restrict c) const {
        const T w = number(FIRST), decay = number(DECAY), w2 = number(SECOND), eps = number(EPS);
        const T correct = number(CORRECT_FIRST), correct2 = number(CORRECT_SECOND);
        if (before)
            std::memcpy(m, before, d_ * sizeof(T)), std::memcpy(v, square, d_ * sizeof(T));
        else
            std::memset(m, 0, d_ * sizeof(T)), std::memset(v, 0, d_ * sizeof(T));
        for (int64_t k = 0; k < d_; ++k) {
            m[k] += w * (c[k] - m[k]);
            v[k] = decay * v[k] + w2 * (c[k] * c[k]);
            c[k] = m[k] / ((std::sqrt(v[k] / correct2) + eps) * correct);
        }
    }
};

}  // namespace
