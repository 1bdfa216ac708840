/* As much of TFLite's C interface as these delegates use: the order and the types of the fields are
   those of the interpreters, and stay, as new ones are only added at the end. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, FAILED = 1, ANY_SIZE = 1, DELEGATE = 51, FLOAT32 = 1 };

typedef struct { int size; int data[]; } Ints;
typedef struct Context Context;
typedef struct Delegate Delegate;

typedef struct {
    int type;
    void *data;
    Ints *sizes;
    struct { float scale; int32_t zero; } quantised;
    int allocation;
    size_t bytes;
    const void *mapped;
    const char *name;
    Delegate *delegate;
    int handle;
    bool is_stale, is_variable;
    struct { int kind; void *values; } quantisation;
    void *sparsity;
    const Ints *open_sizes;
} Tensor;

/* Of these two, the first of their fields. */
typedef struct { Ints *inputs, *outputs, *between, *temporary; void *made; } Node;
typedef struct { Delegate *delegate; Ints *nodes, *inputs, *outputs; } Part;

typedef struct {
    void *(*init)(Context *, const char *, size_t);
    void (*free)(Context *, void *);
    int (*prepare)(Context *, Node *);
    int (*invoke)(Context *, Node *);
    const char *(*profiling)(const Context *, const Node *);
    int32_t builtin;
    const char *name;
    int version;
    void *external;
    void *(*asynchronous)(Context *, Node *);
    uint64_t in_place;
} Operator;

struct Context {
    size_t tensors_size;
    int (*plan)(Context *, Ints **);
    Tensor *tensors;
    void *inner;
    int (*resize)(Context *, Tensor *, Ints *);
    void (*report)(Context *, const char *, ...);
    int (*add)(Context *, int, int *);
    int (*node)(Context *, int, Node **, Operator **);
    int (*replace)(Context *, Operator, const Ints *, Delegate *);
};

struct Delegate {
    void *data;
    int (*prepare)(Context *, Delegate *);
    int (*copy_from)(Context *, Delegate *, int, Tensor *);
    int (*copy_to)(Context *, Delegate *, int, Tensor *);
    void (*free_handle)(Context *, Delegate *, int *);
    int64_t flags;
    void *opaque;
};
