/* The C program of the matrix. */
#include "matrix.h"
#include "own.h"

int main(void)
{
    static const struct part parts[] = { PARTS_OF_C, PARTS_OF_ITS_OWN { "threads", end_threads } };
    work_in_parts(parts, LENGTH(parts));
}
