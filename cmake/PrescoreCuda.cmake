# The GPU backend: *_cuda.cu where there is a CUDA compiler, one file of refusals where there is none.
# PRESCORE_CUDA: AUTO (the default: where found), ON (an error where not) or OFF.
set(PRESCORE_CUDA AUTO CACHE STRING "The GPU backend: AUTO, ON or OFF")
set_property(CACHE PRESCORE_CUDA PROPERTY STRINGS AUTO ON OFF)
set(PRESCORE_HAVE_CUDA OFF)
if(PRESCORE_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # 80 and later by PTX of 80, Hopper in its own dialect.
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES "80;90a")
    endif()
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(PRESCORE_HAVE_CUDA ON)
    message(STATUS "prescore: CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
  elseif(NOT PRESCORE_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "prescore: PRESCORE_CUDA is ON and there is no CUDA compiler")
  endif()
endif()

# prescore_cuda_sources(LIST): adds the backend's files, or keeps the one that stands in for them.
macro(prescore_cuda_sources list)
  if(PRESCORE_HAVE_CUDA)
    file(GLOB _cuda CONFIGURE_DEPENDS src/*/*.cu)
    list(APPEND ${list} ${_cuda})
    list(FILTER ${list} EXCLUDE REGEX "/cuda_absent\\.cpp$")
  endif()
endmacro()

# What a target with *.cu files is compiled with.
function(prescore_cuda_options target)
  if(PRESCORE_HAVE_CUDA)
    target_compile_options(${target} PRIVATE
      $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -lineinfo -Xcompiler=-Wall,-Wextra
        $<$<BOOL:${PRESCORE_WERROR}>:-Werror=all-warnings>>)
    target_link_libraries(${target} PRIVATE CUDA::cudart_static)
    if(CMAKE_CUDA_ARCHITECTURES MATCHES "90a")  # else Hopper takes the kernel for all GPUs
      target_compile_definitions(${target} PRIVATE PRESCORE_SM90A)
    endif()
  endif()
endfunction()
