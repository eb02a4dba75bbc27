// Asks for more memory than there is at every line it is told, and says whether it has caught the exception.
#include <cstdio>
#include <new>

int main() {
    char line[256];
    std::puts("ready");
    std::fflush(stdout);
    while (std::fgets(line, sizeof line, stdin)) {
        volatile unsigned long bytes = 1UL << 46;
        bool caught = false;
        void *block = nullptr;
        try {
            block = ::operator new(bytes);
        } catch (const std::bad_alloc &) {
            caught = true;
        }
        ::operator delete(block);
        std::printf("{\"caught\": %d}\n", caught);
        std::fflush(stdout);
    }
}
