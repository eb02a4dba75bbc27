// The C++ program of the matrix: what C has, and operator new and delete in all their forms.
#include <cstddef>
#include <new>

#include "matrix.h"
#include "own.h"

namespace {

std::align_val_t alignment_of(const slot *s)
{
    return std::align_val_t { s->alignment };
}

// Called as functions, so that no compiler may leave a pair of them out.
MAKER(by_new, ::operator new(n))
MAKER(by_new_array, ::operator new[](n))
MAKER(by_new_nothrow, ::operator new(n, std::nothrow))
MAKER(by_new_array_nothrow, ::operator new[](n, std::nothrow))
// GCC's library rounds the size up to a multiple of the alignment before it asks (libsupc++/new_opa.cc).
MAKER(by_new_aligned, ::operator new(whole_alignments(s), alignment_of(s)))
MAKER(by_new_array_aligned, ::operator new[](whole_alignments(s), alignment_of(s)))
MAKER(by_new_aligned_nothrow, ::operator new(whole_alignments(s), alignment_of(s), std::nothrow))
MAKER(by_new_array_aligned_nothrow, ::operator new[](whole_alignments(s), alignment_of(s), std::nothrow))
GIVER(to_delete, ::operator delete(s->block))
GIVER(to_delete_array, ::operator delete[](s->block))
GIVER(to_delete_nothrow, ::operator delete(s->block, std::nothrow))
GIVER(to_delete_array_nothrow, ::operator delete[](s->block, std::nothrow))
GIVER(to_delete_sized, ::operator delete(s->block, s->size))
GIVER(to_delete_array_sized, ::operator delete[](s->block, s->size))
GIVER(to_delete_aligned, ::operator delete(s->block, alignment_of(s)))
GIVER(to_delete_array_aligned, ::operator delete[](s->block, alignment_of(s)))
GIVER(to_delete_aligned_nothrow, ::operator delete(s->block, alignment_of(s), std::nothrow))
GIVER(to_delete_array_aligned_nothrow, ::operator delete[](s->block, alignment_of(s), std::nothrow))
GIVER(to_delete_sized_aligned, ::operator delete(s->block, s->size, alignment_of(s)))
GIVER(to_delete_array_sized_aligned, ::operator delete[](s->block, s->size, alignment_of(s)))

const maker new_makers[] = { { by_new, PLAIN }, { by_new_array, PLAIN }, { by_new_nothrow, PLAIN },
    { by_new_array_nothrow, PLAIN }, { by_new_aligned, ALIGNED_NEW }, { by_new_array_aligned, ALIGNED_NEW },
    { by_new_aligned_nothrow, ALIGNED_NEW }, { by_new_array_aligned_nothrow, ALIGNED_NEW }, { by_malloc, PLAIN } };
const giver deleters[] = { { to_delete, PLAIN | CHANGED }, { to_delete_array, PLAIN | CHANGED },
    { to_delete_nothrow, PLAIN | CHANGED }, { to_delete_array_nothrow, PLAIN | CHANGED },
    { to_delete_sized, PLAIN }, { to_delete_array_sized, PLAIN }, { to_free, PLAIN | CHANGED },
    { to_delete_aligned, ALIGNED_NEW }, { to_delete_array_aligned, ALIGNED_NEW },
    { to_delete_aligned_nothrow, ALIGNED_NEW }, { to_delete_array_aligned_nothrow, ALIGNED_NEW },
    { to_delete_sized_aligned, ALIGNED_NEW }, { to_delete_array_sized_aligned, ALIGNED_NEW } };

void objects()
{
    uint64_t seed = 4;
    WALK(&seed, 8000, new_makers, changers, deleters);
    // Deleting nothing is no call of the allocator's, whatever it is told of the size.
    void *volatile nothing = nullptr;
    for (int round = 0; round < 20; round++) {
        ::operator delete(nothing);
        ::operator delete[](nothing, std::size_t { 100 });
        ::operator delete(nothing, std::align_val_t { 64 });
        ::operator delete(nothing, std::size_t { 100 }, std::align_val_t { 64 });
    }
}

} // namespace

int main()
{
    static const part parts[] = { PARTS_OF_C, { "new and delete", objects },
        PARTS_OF_ITS_OWN { "threads", end_threads } };
    work_in_parts(parts, LENGTH(parts));
}
