/* The name under which the course's programs include the library: see kvs.h. */
#ifndef KVS_LIB_H
#define KVS_LIB_H

#include "kvs.h"

#endif
