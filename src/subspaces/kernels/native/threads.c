/* Threads made for one call and joined at its end: nothing is left behind for a fork to break or for another
 * runtime's threads to spin against. Making one costs about 20 microseconds, so small work stays here. */
#include <pthread.h>
#include <stdlib.h>

#include "internal.h"

#define ROWS_PER_THREAD 524288.0

int worth_threads(int threads, double rows)
{
    const double most = rows / ROWS_PER_THREAD;
    return most < 2 ? 1 : most < threads ? (int)most : threads;
}

void run_threads(int threads, void *(*worker)(void *), void *context)
{
    pthread_t *others = threads > 1 ? malloc(sizeof(pthread_t) * (size_t)(threads - 1)) : NULL;
    int started = 0;
    if (others)
        while (started < threads - 1 && !pthread_create(&others[started], NULL, worker, context))
            started++; /* fewer threads give the same result, later */
    worker(context);
    for (int i = 0; i < started; i++)
        pthread_join(others[i], NULL);
    free(others);
}
