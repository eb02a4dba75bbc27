/* loads LIBRARY COUNT: loads and unloads a library so often. */
#include "helper.h"
#include <dlfcn.h>

int main(int argc, char **argv)
{
    if (argc < 3)
        fail("too few arguments");
    ready_and_wait();
    for (int i = atoi(argv[2]); i > 0; i--) {
        void *library = dlopen(argv[1], RTLD_NOW);
        if (!library)
            fail("dlopen");
        dlclose(library);
    }
    say("{}");
    wait_for_the_end();
}
