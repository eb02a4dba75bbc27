/* A Python extension with two leaks: memory that it takes from the C library and forgets, and an object whose last
 * reference it forgets to give up. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>

static unsigned long long forgotten_blocks, forgotten_bytes, kept_objects, kept_bytes;

/* A buffer per call is never freed. */
static __attribute__((noinline, noclone)) void leak_buffer(Py_ssize_t size)
{
    char *buffer = malloc((size_t)size);
    if (buffer != NULL) {
        memset(buffer, 0x5a, (size_t)size);
        forgotten_blocks++;
        forgotten_bytes += (unsigned long long)size;
    }
    __asm__ volatile("" : : "r"(buffer) : "memory");
}

static PyObject *parse(PyObject *self, PyObject *argument)
{
    Py_ssize_t size = PyLong_AsSsize_t(argument);
    (void)self;
    if (size < 0)
        return NULL;
    leak_buffer(size);
    Py_RETURN_NONE;
}

/* What it has made is never given up: a reference too many. */
static __attribute__((noinline, noclone)) Py_ssize_t leak_reference(Py_ssize_t size)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (bytes == NULL)
        return -1;
    memset(PyBytes_AS_STRING(bytes), 0x5a, (size_t)size);
    kept_objects++;
    /* As much as the interpreter asks for: the object's head, and a zero at the end. */
    kept_bytes += (unsigned long long)(offsetof(PyBytesObject, ob_sval) + 1 + (size_t)size);
    return PyBytes_GET_SIZE(bytes);
}

static PyObject *encode(PyObject *self, PyObject *argument)
{
    Py_ssize_t size = PyLong_AsSsize_t(argument);
    (void)self;
    if (size < 0)
        return NULL;
    return PyLong_FromSsize_t(leak_reference(size));
}

static PyObject *truth(PyObject *self, PyObject *nothing)
{
    (void)self;
    (void)nothing;
    return Py_BuildValue("KKKK", forgotten_blocks, forgotten_bytes, kept_objects, kept_bytes);
}

static PyMethodDef methods[] = {
    { "parse", parse, METH_O, "Leaks a buffer of so many bytes." },
    { "encode", encode, METH_O, "Leaks an object of so many bytes." },
    { "truth", truth, METH_NOARGS, "What was leaked: blocks and bytes, objects and bytes." },
    { NULL, NULL, 0, NULL },
};

static struct PyModuleDef module = { PyModuleDef_HEAD_INIT, "planted", NULL, -1, methods, NULL, NULL, NULL, NULL };

PyMODINIT_FUNC PyInit_planted(void)
{
    return PyModule_Create(&module);
}
