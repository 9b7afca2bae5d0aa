/* Checks the shape of an encoded message before protobuf-c unpacks it. protobuf-c is safe on bad
 * input but answers it with a bare NULL; people with a half-downloaded profile deserve the name
 * of the field and the byte where it ends. It also keeps anything that cannot be a profile from
 * being blown up into structs first.
 *
 * Invariants:
 * 1. No byte outside [buf, buf + n) is read.
 * 2. The nesting is that of the message types (three levels here), so depth is bounded by the
 *    schema and not by the input.
 *
 * No locks.
 */
#include "proto/wire.h"
#include "proto/model.h"

#include <errno.h>

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

typedef struct cursor {
    const uint8_t *start, *at, *end;
    char *err;
    size_t errlen;
} cursor;

/* One varint; false when it runs past the end or is longer than any 64-bit number. */
static bool varint(cursor *c, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 70 && c->at < c->end; shift += 7) {
        uint8_t b = *c->at++;
        *value |= shift < 64 ? (uint64_t)(b & 0x7f) << shift : 0;
        if (b < 0x80)
            return true;
    }
    return false;
}

static const ProtobufCFieldDescriptor *field_of(const ProtobufCMessageDescriptor *d,
                                                uint64_t number)
{
    for (unsigned i = 0; i < d->n_fields; i++)
        if (d->fields[i].id == number)
            return &d->fields[i];
    return NULL;
}

static int bad(const cursor *c, const ProtobufCMessageDescriptor *d,
               const ProtobufCFieldDescriptor *f, const char *what)
{
    return pb_fail(c->err, c->errlen, -EBADMSG, "malformed profile: %s%s%s %s at byte %zu",
                   d->short_name, f ? "." : "", f ? f->name : "", what, (size_t)(c->at - c->start));
}

static bool wire_type_fits(const ProtobufCFieldDescriptor *f, unsigned wire)
{
    bool number = f->type != PROTOBUF_C_TYPE_MESSAGE && f->type != PROTOBUF_C_TYPE_STRING;
    if (number && wire == BYTES)
        return f->label == PROTOBUF_C_LABEL_REPEATED;
    return wire == (number ? VARINT : BYTES);
}

static int check_message(cursor *c, const ProtobufCMessageDescriptor *d);

/* A length and that many bytes: a nested message, a packed list of numbers, or text. */
static int check_bytes(cursor *c, const ProtobufCMessageDescriptor *d,
                       const ProtobufCFieldDescriptor *f)
{
    uint64_t len;
    if (!varint(c, &len) || len > (size_t)(c->end - c->at))
        return bad(c, d, f, "is cut off");
    const uint8_t *end = c->end, *next = c->at + len;
    int rc = 0;
    if (f && f->type == PROTOBUF_C_TYPE_MESSAGE) {
        c->end = next;
        rc = check_message(c, f->descriptor);
        c->end = end;
    } else if (f && f->type != PROTOBUF_C_TYPE_STRING && len && next[-1] >= 0x80) {
        rc = bad(c, d, f, "ends inside a number");
    }
    if (!rc)
        c->at = next;
    return rc;
}

static int check_message(cursor *c, const ProtobufCMessageDescriptor *d)
{
    while (c->at < c->end) {
        uint64_t tag, ignored;
        if (!varint(c, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
            return bad(c, d, NULL, "has no valid field");
        const ProtobufCFieldDescriptor *f = field_of(d, tag >> 3);
        unsigned wire = tag & 7;
        if (f && !wire_type_fits(f, wire))
            return bad(c, d, f, "has the wrong type");
        int rc = 0;
        size_t left = (size_t)(c->end - c->at), skip = wire == FIXED64 ? 8 : 4;
        if (wire == BYTES)
            rc = check_bytes(c, d, f);
        else if (wire == VARINT)
            rc = varint(c, &ignored) ? 0 : bad(c, d, f, "is cut off");
        else if ((wire == FIXED64 || wire == FIXED32) && left >= skip)
            c->at += skip;
        else
            rc = bad(c, d, f, "has no valid field");
        if (rc)
            return rc;
    }
    return 0;
}

int pb_wire_check(const ProtobufCMessageDescriptor *d, const uint8_t *buf, size_t n, char *err,
                  size_t errlen)
{
    cursor c = {.start = buf, .at = buf, .end = buf + n, .err = err, .errlen = errlen};
    return check_message(&c, d);
}
