/* SPDX-License-Identifier: Apache-2.0 */
/* The fuzz target on the files named, for a CPU that has no libFuzzer here. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define INPUT_MAX 65536u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

int main(int count, char **names)
{
    static uint8_t input[INPUT_MAX];

    for (int i = 1; i < count; i++) {
        FILE *file = fopen(names[i], "rb");

        if (!file) {
            perror(names[i]);
            return EXIT_FAILURE;
        }
        size_t length = fread(input, 1, sizeof input, file);

        fclose(file);
        fprintf(stderr, "Running: %s\n", names[i]);
        LLVMFuzzerTestOneInput(input, length);
    }
    return EXIT_SUCCESS;
}
