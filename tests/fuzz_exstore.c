// SPDX-License-Identifier: MIT
/* libFuzzer harness of the exception store (`make fuzz FUZZ=exstore`); exstore_check.h says what an input means. */
#include "exstore_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	check_store(data, size);
	return 0;
}
