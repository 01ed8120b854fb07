/* All vectorised functions of one instruction set and the table that names them. An isa_*.c defines
 *   W      floats per vector,
 *   R      vectors that the register transform works on,
 *   TABLE  the name of the table,
 *   NAME   its name for people,
 * sets the target options and includes this file. */
#include "vector.h"

#include "body_random.h"

#include "body_rows.h"

#include "body_hadamard.h"

#include "body_rotation.h"

#include "body_fused.h"

#include "body_dense.h"

#include "body_sparse.h"

#include "body_fastfood.h"

#include "body_adam.h"

const kernels TABLE = {
    .name = NAME,
    .philox = philox,
    .hadamard = hadamard,
    .dense_prepare = dense_prepare,
    .dense_form = QUADS * TABLE_SIZE,
    .dense_lanes = BITS ? W : 1,
    .pass = pass,
    .multiply = multiply,
    .load = load_rows,
    .emit = emit,
    .add64 = add64,
    .flush = flush,
    .adam = adam_rows,
    .write_tile = write_tile,
    .fold_tile = fold_tile,
    .lift = {rotation_lift, dense_lift, sparse_lift, fastfood_lift},
    .adjoint = {rotation_adjoint, dense_adjoint, sparse_adjoint, fastfood_adjoint},
};

/* the sizes of scratch memory are the same for every instruction set */
_Static_assert(sizeof(rotation_scratch) <= ROTATION_SCRATCH, "ROTATION_SCRATCH is too small");
_Static_assert(sizeof(dense_scratch) <= DENSE_SCRATCH, "DENSE_SCRATCH is too small");
_Static_assert(sizeof(sparse_scratch) <= SPARSE_SCRATCH, "SPARSE_SCRATCH is too small");
