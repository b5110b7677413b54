// Threads that live as long as one call, which therefore leaves nothing behind that a fork could lose.

#pragma once

#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace {

// Call work(i) for each part i, the first in this thread. The work must not throw.
template <class Work>
void share(int64_t parts, const Work& work) {
    std::vector<std::thread> threads;
    threads.reserve(parts);
    int64_t started = 1;
    try {
        for (; started < parts; ++started) threads.emplace_back([&work, started] { work(started); });
    } catch (const std::system_error&) {  // the system has no more threads: this one does the rest
    }
    work(0);
    for (int64_t i = started; i < parts; ++i) work(i);
    for (std::thread& thread : threads) thread.join();
}

}  // namespace
