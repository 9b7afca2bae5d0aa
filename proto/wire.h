/* Private to proto/: does a byte string have the shape of a message, and if not, where not? */
#ifndef WEFT_PROTO_WIRE_H
#define WEFT_PROTO_WIRE_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

/* 0, or -EBADMSG with one line in err that names the field and the byte. */
int pb_wire_check(const ProtobufCMessageDescriptor *, const uint8_t *buf, size_t n, char *err,
                  size_t errlen);

#endif
