// Known callers whose allocations are made by libstdc++ for them.
#include <cstdlib>
#include <string>
#include <vector>

#define NOINLINE __attribute__((noinline, noclone))
#define INLINE inline __attribute__((always_inline))
#define AFTER(value) __asm__ volatile("" : : "r"(value) : "memory")

namespace shop {

template <typename Item> struct Cart {
    std::vector<Item> items;
    NOINLINE void add(std::size_t bytes) {
        items.reserve(bytes / sizeof(Item));
        AFTER(items.data());
    }
};

struct Order {
    std::string text;
    INLINE void grow(std::size_t bytes) {
        text.reserve(bytes);
        AFTER(text.data());
    }
    NOINLINE void place(std::size_t bytes) {
        grow(bytes);
        AFTER(this);
    }
};

NOINLINE void by_string(std::size_t bytes) {
    Order order;
    order.place(bytes - 1);
    AFTER(&order);
}

NOINLINE void by_vector(std::size_t bytes) {
    Cart<long> cart;
    cart.add(bytes);
    AFTER(&cart);
}

}  // namespace shop

int main(int count, char **) {
    std::size_t size = std::strtoul(std::getenv("WANT"), nullptr, 10);
    if (count > 1) shop::by_vector(size); else shop::by_string(size);
    AFTER(&size);
    return 0;
}
