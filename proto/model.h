/* Private to proto/: what profile.c keeps beside the model. */
#ifndef WEFT_PROTO_MODEL_H
#define WEFT_PROTO_MODEL_H

#include "proto/intern.h"
#include "proto/profile.h"

struct pb_intern {
    pb_arena arena;    /* strings, location lists, values, labels, lines */
    pb_strtab strings; /* the model's strings and nstrings mirror it */
    pb_index functions, mappings, locations, samples;
    size_t cap_types, cap_samples, cap_mappings, cap_locations, cap_functions, cap_comments;
};

/* Forgets every sample whose values are all zero; ids and strings stay. */
void pb_samples_drop_zero(pb_profile *);

/* Writes an error line into err, when there is one, and returns code. */
int pb_fail(char *err, size_t errlen, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
