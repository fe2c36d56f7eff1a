# Warnings for our own code, sanitizers for everything built here.

add_library(prescore_warnings INTERFACE)
target_compile_options(prescore_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:C,CXX>:-Wall -Wextra -Wpedantic -Wconversion -Wshadow
    $<$<BOOL:${PRESCORE_WERROR}>:-Werror>>
  # clang counts signs among conversions, gcc does not: one rule for both
  $<$<CXX_COMPILER_ID:Clang,AppleClang>:-Wno-sign-conversion>)

# The sanitizers make gcc's flow analysis warn about code that is fine.
if(PRESCORE_SANITIZE AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(prescore_warnings INTERFACE -Wno-maybe-uninitialized)
endif()

if(PRESCORE_SANITIZE)
  add_compile_options(-fsanitize=${PRESCORE_SANITIZE} -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${PRESCORE_SANITIZE})
  if(PRESCORE_SANITIZE MATCHES thread)
    # The synchronisation inside oneTBB's library is invisible to ThreadSanitizer: everything handed
    # to a worker would look like a race. The executor runs std::threads instead.
    add_compile_definitions(PRESCORE_PLAIN_THREADS)
  endif()
  if(PRESCORE_SANITIZE MATCHES undefined)
    add_compile_options(-fno-sanitize-recover=all)
  endif()
endif()
