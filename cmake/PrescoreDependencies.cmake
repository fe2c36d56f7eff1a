# Every dependency: the system's package where it is new enough (scripts/setup.sh installs it), else
# the pinned release by URL and hash. SYSTEM: their headers cause no warnings in our files.
include(FetchContent)

# prescore_dependency(NAME MIN_VERSION TARGET URL SHA256)
macro(prescore_dependency name version target url sha256)
  find_package(${name} ${version} QUIET)
  if(${name}_FOUND)
    message(STATUS "prescore: ${name} ${${name}_VERSION} from ${${name}_DIR}")
  else()
    message(STATUS "prescore: ${name} >= ${version} not found, fetching ${url}")
    FetchContent_Declare(${name} URL ${url} URL_HASH SHA256=${sha256}
                         DOWNLOAD_EXTRACT_TIMESTAMP ON SYSTEM)
    FetchContent_MakeAvailable(${name})
  endif()
  if(NOT TARGET ${target})
    message(FATAL_ERROR "prescore: ${name} does not define ${target}")
  endif()
endmacro()

find_package(Threads REQUIRED)

set(HWY_ENABLE_TESTS OFF)
set(HWY_ENABLE_EXAMPLES OFF)
set(HWY_ENABLE_CONTRIB OFF)
set(TBB_TEST OFF)
set(BUILD_TESTING OFF)  # Eigen's; ours are PRESCORE_TESTS
set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)  # the plain variables above also reach older projects

prescore_dependency(hwy 1.0.3 hwy::hwy
  https://github.com/google/highway/archive/refs/tags/1.2.0.tar.gz
  7e0be78b8318e8bdbf6fa545d2ecb4c90f947df03f7aadc42c1967f019e63343)
prescore_dependency(TBB 2021.5 TBB::tbb
  https://github.com/oneapi-src/oneTBB/archive/refs/tags/v2021.12.0.tar.gz
  c7bb7aa69c254d91b8f0041a71c5bcc3936acb64408a1719aec0b2b7639dd84f)
prescore_dependency(Eigen3 3.4 Eigen3::Eigen
  https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.bz2
  b4c198460eba6f28d34894e3a5710998818515104d6e74e5cc331ce31e46e626)

if(PRESCORE_TESTS)
  set(INSTALL_GTEST OFF)
  prescore_dependency(GTest 1.11 GTest::gtest_main
    https://github.com/google/googletest/archive/refs/tags/v1.14.0.tar.gz
    8ad598c73ad796e0d8280b082cebd82a630d73e73cd3c70057938a6501bba5d7)
  include(GoogleTest)
endif()
if(PRESCORE_BENCH)
  set(BENCHMARK_ENABLE_TESTING OFF)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  prescore_dependency(benchmark 1.6 benchmark::benchmark
    https://github.com/google/benchmark/archive/refs/tags/v1.8.3.tar.gz
    6bc180a57d23d4d9515519f92b0c83d61b05b5bab188961f36ac7b06b0d9e9ce)
endif()

# llama.cpp has no Debian package. scripts/build_llama.sh builds the pinned one into the user's
# cache folder and is asked for the place, so that a plain `cmake --preset release` finds it too.
# Another one: -Dllama_DIR, CMAKE_PREFIX_PATH or PRESCORE_LLAMA_PREFIX.
if(PRESCORE_LLAMA)
  set(PRESCORE_LLAMA_PREFIX "" CACHE PATH "Where llama.cpp is installed; empty: ask scripts/")
  set(_prefix ${PRESCORE_LLAMA_PREFIX})
  find_package(llama QUIET)
  if(NOT llama_FOUND AND NOT _prefix)
    execute_process(COMMAND bash ${PROJECT_SOURCE_DIR}/scripts/build_llama.sh --print-prefix
                    OUTPUT_VARIABLE _prefix OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
  if(NOT llama_FOUND AND _prefix)
    find_package(llama QUIET PATHS ${_prefix}/lib/cmake/llama NO_DEFAULT_PATH)
  endif()
  if(llama_FOUND)
    message(STATUS "prescore: llama ${LLAMA_VERSION} from ${llama_DIR}")
    prescore_dependency(CLI11 2.1 CLI11::CLI11
      https://github.com/CLIUtils/CLI11/archive/v2.4.2.tar.gz
      f2d893a65c3b1324c50d4e682c0cdc021dd0477ae2c048544f39eed6654b699a)
    prescore_dependency(fmt 8.1 fmt::fmt
      https://github.com/fmtlib/fmt/archive/refs/tags/9.1.0.tar.gz
      5dea48d1fcddc3ec571ce2058e13910a0d4a6bab4cc09a809d8b1dd1c88ae6f2)
  else()
    message(STATUS "prescore: llama.cpp not found (scripts/setup.sh builds it): no hosts, no command")
  endif()
endif()
if(llama_FOUND OR PRESCORE_FUZZ)
  prescore_dependency(nlohmann_json 3.10 nlohmann_json::nlohmann_json
    https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
    d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
endif()
