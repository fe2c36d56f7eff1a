# Files that use the instructions of one extension directly (bf16 dot products, AMX tiles). All
# others are compiled for the baseline and leave the choice of instructions to Highway.
#
# A file of this kind must define nothing with external linkage but its own kernels: an inline
# function of a header, emitted here with AVX-512, could be the copy that the linker keeps for
# everybody. The test isa.no_shared_symbols (tests/CMakeLists.txt) checks that.
include(CheckCXXCompilerFlag)

set(PRESCORE_BF16_FLAGS
    -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma -mf16c -mavx2)
set(PRESCORE_AMX_FLAGS ${PRESCORE_BF16_FLAGS} -mamx-tile -mamx-bf16)
set(PRESCORE_ISA_DEFINITIONS "")

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  list(JOIN PRESCORE_BF16_FLAGS " " _flags)
  check_cxx_compiler_flag("${_flags}" PRESCORE_COMPILER_HAS_BF16)
  list(JOIN PRESCORE_AMX_FLAGS " " _flags)
  check_cxx_compiler_flag("${_flags}" PRESCORE_COMPILER_HAS_AMX)
endif()

# prescore_isa_sources(LIST): sets the flags of *_bf16.cpp and *_amx.cpp in the list, or removes
# them where the compiler has no such flags; sets PRESCORE_ISA_DEFINITIONS for the caller.
macro(prescore_isa_sources list)
  foreach(_isa IN ITEMS bf16 amx)
    string(TOUPPER ${_isa} _ISA)
    set(_files ${${list}})
    list(FILTER _files INCLUDE REGEX "_${_isa}\\.cpp$")
    if(PRESCORE_COMPILER_HAS_${_ISA})
      set_property(SOURCE ${_files} APPEND PROPERTY COMPILE_OPTIONS ${PRESCORE_${_ISA}_FLAGS})
      list(APPEND PRESCORE_ISA_DEFINITIONS PRESCORE_HAVE_${_ISA}=1)
    else()
      list(FILTER ${list} EXCLUDE REGEX "_${_isa}\\.cpp$")
    endif()
  endforeach()
endmacro()
