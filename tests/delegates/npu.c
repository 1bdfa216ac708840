/* A delegate for tests, which looks at its options and refuses what it does not know, as some do.
   What it does besides is said by the environment, since libraries of real names take no more:
   NPU_REFUSES why it cannot be made; NPU_TAKES the operators it takes, by the builtin's number or the
   custom operator's name; NPU_TELLS what it computes: "right" (of DEQUANTIZE only), "garbage", "zero",
   "nan", or "failure"; NPU_LOG a file that gets its options and the driver's settings. */
#include "tflite.h"

#include <math.h>
#include <stdio.h>

static const char *said(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static float told(const Tensor *input, size_t place) {
    const char *how = said("NPU_TELLS");
    if (!strcmp(how, "right"))
        return (((int8_t *)input->data)[place] - input->quantised.zero) * input->quantised.scale;
    if (!strcmp(how, "garbage")) return (float)(place * 2654435761u % 1000u) / 1000;
    return !strcmp(how, "nan") ? NAN : 0;
}

static void *begin(Context *context, const char *part, size_t length) {
    (void)context, (void)length;
    return ((const Part *)part)->delegate;
}

static int get_ready(Context *context, Node *node) {
    (void)context, (void)node;
    return OK;
}

static int invoke(Context *context, Node *node) {
    if (!strcmp(said("NPU_TELLS"), "failure")) {
        context->report(context, "the NPU does not answer");
        return FAILED;
    }
    for (int i = 0; i < node->outputs->size; i++) {
        /* Each DEQUANTIZE alone has as many inputs as outputs, in the same order. */
        const Tensor *input = &context->tensors[node->inputs->data[i % node->inputs->size]];
        Tensor *output = &context->tensors[node->outputs->data[i]];
        if (output->type != FLOAT32) return FAILED;
        for (size_t place = 0; place < output->bytes / sizeof(float); place++)
            ((float *)output->data)[place] = told(input, place);
    }
    return OK;
}

static int takes(const Operator *operator) {
    char own[64];
    snprintf(own, sizeof own, "%d", operator->builtin);
    return !strcmp(said("NPU_TAKES"), operator->name ? operator->name : own);
}

static int look(Context *context, Delegate *delegate) {
    Operator kernel = {begin, NULL, get_ready, invoke, NULL, DELEGATE, "Npu", 1, NULL, NULL, 0};
    Ints *plan, *mine;
    if (context->plan(context, &plan) != OK) return FAILED;
    mine = calloc(1 + plan->size, sizeof(int));
    for (int i = 0; i < plan->size; i++) {
        Node *node;
        Operator *operator;
        if (context->node(context, plan->data[i], &node, &operator) != OK) return FAILED;
        if (takes(operator)) mine->data[mine->size++] = plan->data[i];
    }
    int done = context->replace(context, kernel, mine, delegate);
    free(mine);
    return done;
}

Delegate *tflite_plugin_create_delegate(
    char **keys, char **values, size_t count, void (*report)(const char *)) {
    static const char *known[] = {"device_name", "device_id", "timeout"};
    FILE *log = getenv("NPU_LOG") ? fopen(getenv("NPU_LOG"), "a") : NULL;
    if (*said("NPU_REFUSES")) {
        report(said("NPU_REFUSES"));
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        size_t k = 0;
        while (k < 3 && strcmp(keys[i], known[k])) k++;
        if (k == 3) {
            report("no such option: ");
            report(keys[i]);
            return NULL;
        }
        if (log) fprintf(log, "%s=%s\n", keys[i], values[i]);
    }
    if (log) {
        fprintf(log, "cache %s %s\n", said("VIV_VX_ENABLE_CACHE_GRAPH_BINARY"),
                said("VIV_VX_CACHE_BINARY_GRAPH_DIR"));
        fclose(log);
    }
    Delegate *made = calloc(1, sizeof *made);
    made->prepare = look;
    made->flags = ANY_SIZE; /* else the operators that only it knows are prepared before it is asked */
    return made;
}

void tflite_plugin_destroy_delegate(Delegate *delegate) { free(delegate); }
