// Steps of small orthogonal weights: the coordinates of the gradient, the rule of the optimizer, the retraction and the
// correction of drift in one call for many weights. `prepare` writes to buffers of its own, `commit` to the weights.

#include <vector>

#include "exports.h"
#include "series.h"
#include "small.h"
#include "steps.h"
#include "threads.h"

namespace {

constexpr double LONGEST = 2;      // bound of the spectral norm of a step: condition numbers stay below 5
constexpr double FARTHEST = 0.8;   // of y^T y from the identity, from where Newton-Schulz converges
constexpr int64_t MOST_ROWS = 64;  // of matrices in the first cache

template <class T>
class SmallStepper {
  public:
    SmallStepper(const Steps<T>& s, int64_t part)
        : s_(s), results_(s), k_(s.n), d_(Results<T>::coordinates(s.n)),
          X_(s.buffer + s.count * Results<T>::room(s.n) + part * work(s.n)), G_(X_ + k_.size()), A_(G_ + k_.size()),
          W_(A_ + k_.size()), Y_(W_ + k_.size()), c_(Y_ + k_.size()) {}

    static int64_t work(int64_t n) {
        return Results<T>::whole(5 * Small<T>(n).size() + Results<T>::coordinates(n) + LANES<T>);
    }

    bool prepare(int64_t i) {
        if (step(i)) return true;
        std::fill_n(X_, work(s_.n), T(0));  // NaN would stay in the padding
        return false;
    }

  private:
    const Steps<T>& s_;
    const Results<T> results_;
    const Small<T> k_;
    const int64_t d_;
    T *const X_, *const G_, *const A_, *const W_, *const Y_, *const c_;

    T number(Number which) const { return static_cast<T>(s_.numbers[which]); }

    // Write what weight i and its moments become to the results; false if the step is not sound or too long for this.
    bool step(int64_t i) {
        load(s_.x[i], s_.x_by_columns, X_);
        load(s_.g[i], s_.g_by_columns, G_);
        k_.product(X_, 1, k_.line, G_, Y_);
        k_.transpose(Y_, W_);
        k_.pack(Y_, W_, c_, number(SIGN));
        if (!std::isfinite(Y_[0])) return false;  // a 1 x 1 matrix has no coordinates that would tell
        if (!has_squares<T>(sum_of_squares(c_, d_))) return false;
        results_.direction(i, c_);
        k_.unpack(c_, A_, number(RATE));
        // of the step itself: a rate may be infinite as a T, and the squares of the coordinates may be 0
        const double length = std::sqrt(0.5 * sum_of_squares(A_, s_.n * k_.line));
        if (!std::isfinite(length)) return false;
        const double bound = std::min<double>(length, k_.largest_row(A_));
        if (!(bound < LONGEST) || !move(bound)) return false;
        T *y = Y_, *spare = W_;
        if (s_.polish) {
            k_.gram(y, A_);
            k_.multiply(y, A_, spare, -0.5, y, 1.5);
            std::swap(y, spare);
        }
        if (s_.x_by_columns) {
            k_.transpose(y, spare);
            std::swap(y, spare);
        }
        k_.store(y, results_.weight(i));
        return true;
    }

    void load(const T* from, bool by_columns, T* to) const {
        k_.load(from, by_columns ? W_ : to);
        if (by_columns) k_.transpose(W_, to);
    }

    // Y = X phi(A) for a step of spectral norm at most `bound`.
    bool move(double bound) {
        switch (s_.retraction) {
            case EXP: return exponential(bound);
            case CAYLEY: return cayley();
            case QR: return factor();
            default: return polar();
        }
    }

    // Horner's scheme of the series, whose rest is below rounding.
    bool exponential(double bound) {
        int64_t terms = 1;
        for (double rest = bound * bound / 2; rest > 0.25 * std::numeric_limits<T>::epsilon(); ++terms)
            rest *= bound / (terms + 2);
        std::memcpy(Y_, X_, k_.size() * sizeof(T));
        for (T *from = Y_, *to = W_; terms; --terms, std::swap(from, to)) {
            k_.multiply(from, A_, to, T(1) / terms, X_);
            if (terms == 1 && to != Y_) std::memcpy(Y_, to, k_.size() * sizeof(T));
        }
        return true;
    }

    // Y = 2 Z - X with Z (I - A/2) = X. All pivots are at least 1: the symmetric part of I + A/2 is the identity.
    bool cayley() {
        T *const M = A_, *const Z = W_;
        for (int64_t i = 0; i < s_.n; ++i) {
            k_.scale(M + i * k_.line, 0.5);
            M[i * k_.line + i] = 1;
        }
        k_.transpose(X_, Z);
        T factors[64];
        for (int64_t j = 0; j < s_.n; ++j) {
            const T inverse = 1 / M[j * k_.line + j];
            for (int64_t i = j + 1; i < s_.n; ++i) factors[i] = M[i * k_.line + j] * inverse;
            k_.subtract(M, M + j * k_.line, factors, 1, j + 1, s_.n, j);
            k_.subtract(Z, Z + j * k_.line, factors, 1, j + 1, s_.n, 0);
        }
        for (int64_t j = s_.n - 1; j >= 0; --j) {
            k_.scale(Z + j * k_.line, 1 / M[j * k_.line + j]);
            k_.subtract(Z, Z + j * k_.line, M + j, k_.line, 0, j, 0);
        }
        k_.transpose(Z, Y_);
        for (int64_t p = 0; p < s_.n * k_.line; p += LANES<T>) write<T>(Y_ + p, T(2) * read(Y_ + p) - read(X_ + p));
        return true;
    }

    // The columns of X + X A made orthonormal one after the other, by the Gram matrix, which knows of drift as well.
    bool factor() {
        T *const S = G_, *const Q = W_;
        k_.multiply(X_, A_, Y_, 1, X_);
        k_.gram(Y_, S);
        k_.transpose(Y_, Q);
        T factors[64];
        for (int64_t j = 0; j < s_.n; ++j) {
            const T pivot = S[j * k_.line + j], inverse = 1 / pivot;
            if (!(pivot > 0.5)) return false;
            for (int64_t i = j + 1; i < s_.n; ++i) factors[i] = S[j * k_.line + i] * inverse;
            k_.subtract(S, S + j * k_.line, factors, 1, j + 1, s_.n, j);
            k_.subtract(Q, Q + j * k_.line, factors, 1, j + 1, s_.n, 0);
            k_.scale(Q + j * k_.line, 1 / std::sqrt(pivot));
        }
        k_.transpose(Q, Y_);
        return true;
    }

    // Newton-Schulz from X + X A.
    bool polar() {
        T* const S = G_;
        k_.multiply(X_, A_, Y_, 1, X_);
        k_.gram(Y_, S);
        for (int64_t i = 0; i < s_.n; ++i) S[i * k_.line + i] -= 1;
        double far = std::sqrt(sum_of_squares(S, s_.n * k_.line));
        if (!(far < FARTHEST)) return false;
        for (int64_t i = 0; i < s_.n; ++i) S[i * k_.line + i] += 1;
        const double near = rounding<T>(s_.n);
        for (bool again = true; again;) {
            k_.multiply(Y_, S, W_, -0.5, Y_, 1.5);
            std::memcpy(Y_, W_, k_.size() * sizeof(T));
            far = 0.75 * far * far + 0.25 * far * far * far;  // what is left of it
            again = far > near;
            if (again) k_.gram(Y_, S);
        }
        return true;
    }
};

template <class T, class Stepper>
bool prepare_by(const Steps<T>& s) {
    std::vector<char> sound(s.threads);
    const auto work = [&](int64_t part) {
        Stepper stepper(s, part);
        int64_t i = s.count * part / s.threads;
        const int64_t stop = s.count * (part + 1) / s.threads;
        while (i < stop && stepper.prepare(i)) ++i;
        sound[part] = i == stop;
    };
    if (s.threads == 1)
        work(0);
    else
        share(s.threads, work);
    return std::find(sound.begin(), sound.end(), 0) == sound.end();
}

template <class T>
bool prepare(const Steps<T>& s) {
    return s.n <= MOST_ROWS ? prepare_by<T, SmallStepper<T>>(s) : prepare_by<T, SeriesStepper<T>>(s);
}

template <class T>
int64_t room(int64_t count, int64_t n, int64_t threads) {
    const int64_t work = n <= MOST_ROWS ? SmallStepper<T>::work(n) : SeriesStepper<T>::work(n);
    return count * Results<T>::room(n) + threads * work;
}

}  // namespace

extern "C" {
EXPORTED int64_t small_room_float(int64_t count, int64_t n, int64_t threads) { return room<float>(count, n, threads); }
EXPORTED int64_t small_room_double(int64_t count, int64_t n, int64_t threads) { return room<double>(count, n, threads); }
EXPORTED int small_prepare_float(const Steps<float>* s) { return prepare(*s); }
EXPORTED int small_prepare_double(const Steps<double>* s) { return prepare(*s); }
EXPORTED void small_commit_float(const Steps<float>* s) { Results<float>(*s).commit(); }
EXPORTED void small_commit_double(const Steps<double>* s) { Results<double>(*s).commit(); }
}
