// objects [rate=NUMBER]: three leaks of C++: an object of `new`, a string and a vector that are never destroyed. A third of
// the bytes per second each.
#include <new>
#include <string>
#include <vector>

#define restrict __restrict__
extern "C" {
#include "planted.h"
}

namespace {

site leak_object = { "leak_object", 0, 0, 0, 0, 0, 0 };
site leak_string = { "leak_string", 0, 0, 0, 0, 0, 0 };
site leak_vector = { "leak_vector", 0, 0, 0, 0, 0, 0 };

struct Shape {
    virtual ~Shape() = default;
    double corners[40] = {};
};

template <class T> struct Forgotten {
    // Nobody destroys what is in here.
    alignas(T) unsigned char place[sizeof(T)];
};

NOINLINE void leak_one_object()
{
    Shape *shape = new Shape;
    USED(shape);
    count_allocated(&leak_object, sizeof *shape);
    count_lost(&leak_object, sizeof *shape);
}

NOINLINE void leak_one_string(std::size_t length)
{
    Forgotten<std::string> forgotten;
    auto *text = new (forgotten.place) std::string(length, 'x');
    USED(text->data());
    // The standard library asks for room for the terminating zero, too.
    count_allocated(&leak_string, length + 1);
    count_lost(&leak_string, length + 1);
}

NOINLINE void leak_one_vector(std::size_t length)
{
    Forgotten<std::vector<long>> forgotten;
    auto *numbers = new (forgotten.place) std::vector<long>(length, 0x5a5a5a5a5a5a);
    USED(numbers->data());
    count_allocated(&leak_vector, length * sizeof(long));
    count_lost(&leak_vector, length * sizeof(long));
}

NOINLINE void objects_step()
{
    static double rate;
    if (rate == 0)
        rate = argument("rate", 1e6) / 3;
    for (double bytes = due(rate, (double)leak_object.lost_bytes); bytes > 0; bytes -= sizeof(Shape))
        leak_one_object();
    while (due(rate, (double)leak_string.lost_bytes) > 0)
        leak_one_string(between(100, 2000));
    while (due(rate, (double)leak_vector.lost_bytes) > 0)
        leak_one_vector(between(10, 250));
}

} // namespace

int main(int argc, char **argv)
{
    planted_argc = argc;
    planted_argv = argv;
    static site *const sites[] = { &leak_object, &leak_string, &leak_vector, nullptr };
    converse(sites, objects_step);
}
