// C++ objects: new and delete in all their forms, and the standard containers. Every form of operator new and delete is
// replaced by one that counts; the calls that they make are the truth.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

extern "C" {
#include "helper.h"
}

namespace {

std::atomic<std::uint64_t> allocations, aligned, frees, bytes;

void *take(std::size_t size)
{
    void *block = std::malloc(size);
    if (block == nullptr)
        std::abort();
    allocations++;
    bytes += size;
    return block;
}

void *take(std::size_t size, std::align_val_t alignment)
{
    void *block = nullptr;
    if (posix_memalign(&block, static_cast<std::size_t>(alignment), size) != 0)
        std::abort();
    aligned++;
    bytes += size;
    return block;
}

void give(void *block)
{
    frees += block != nullptr;
    std::free(block);
}

struct alignas(128) Wide {
    char data[300];
};

struct Node {
    std::string name;
    std::unique_ptr<Node> left, right;
};

std::unique_ptr<Node> tree(int depth)
{
    auto node = std::make_unique<Node>();
    node->name = "a name that is too long for the string itself to hold " + std::to_string(depth);
    if (depth > 0) {
        node->left = tree(depth - 1);
        node->right = tree(depth - 1);
    }
    return node;
}

void work(unsigned seed)
{
    std::vector<std::string> texts;
    std::map<int, std::vector<int>> numbers;
    std::unordered_map<std::string, int> index;
    std::list<double> list;
    for (int i = 0; i < 3000; i++) {
        seed = seed * 1664525u + 1013904223u;
        texts.emplace_back(seed % 200, 'x');
        numbers[static_cast<int>(seed % 500)].push_back(i);
        index[texts.back()] += i;
        list.push_back(i);
        if (i % 3 == 0)
            list.pop_front();
        if (i % 50 == 0)
            numbers.erase(numbers.begin());
    }
    std::stable_sort(texts.begin(), texts.end());
    for (int i = 1; i < 400; i++) {
        delete[] new char[static_cast<std::size_t>(i) * 1000];
        delete new Wide;
        delete[] new Wide[static_cast<std::size_t>(i % 5)];
        delete[] new std::string[static_cast<std::size_t>(i % 7)];
        delete new (std::nothrow) long(i);
        delete static_cast<long *>(nullptr);
    }
    tree(8);
}

} // namespace

void *operator new(std::size_t size) { return take(size); }
void *operator new[](std::size_t size) { return take(size); }
void *operator new(std::size_t size, const std::nothrow_t &) noexcept { return take(size); }
void *operator new[](std::size_t size, const std::nothrow_t &) noexcept { return take(size); }
void *operator new(std::size_t size, std::align_val_t alignment) { return take(size, alignment); }
void *operator new[](std::size_t size, std::align_val_t alignment) { return take(size, alignment); }
void operator delete(void *block) noexcept { give(block); }
void operator delete[](void *block) noexcept { give(block); }
void operator delete(void *block, std::size_t) noexcept { give(block); }
void operator delete[](void *block, std::size_t) noexcept { give(block); }
void operator delete(void *block, std::align_val_t) noexcept { give(block); }
void operator delete[](void *block, std::align_val_t) noexcept { give(block); }
void operator delete(void *block, std::size_t, std::align_val_t) noexcept { give(block); }
void operator delete[](void *block, std::size_t, std::align_val_t) noexcept { give(block); }

int main()
{
    work(1);
    ready_and_wait();
    allocations = aligned = frees = bytes = 0;
    for (unsigned seed = 2; seed < 6; seed++)
        work(seed);
    say("{\"allocations\":%lu,\"frees\":%lu,\"bytes\":%lu,\"malloc\":%lu,\"posix_memalign\":%lu}",
        allocations + aligned, frees.load(), bytes.load(), allocations.load(), aligned.load());
    wait_for_the_end();
}
