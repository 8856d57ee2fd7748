# Decides REPRISE_CUDA and sets nvcc up. The runtime is linked statically: a binary needs only the
# driver, and runs without one (on the CPU).
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  # What tools/install_dependencies.sh --cuda installs.
  find_program(CMAKE_CUDA_COMPILER nvcc
               HINTS /usr/local/cuda/bin
               PATHS ${PROJECT_SOURCE_DIR}/.cuda/lib/python3.11/site-packages/nvidia/cu13/bin)
  if(NOT CMAKE_CUDA_COMPILER)
    unset(CMAKE_CUDA_COMPILER CACHE)
  endif()
endif()

if(REPRISE_CUDA STREQUAL AUTO)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER AND NOT REPRISE_SANITIZE AND NOT REPRISE_FUZZ)
    set(REPRISE_CUDA ON)
  else()
    set(REPRISE_CUDA OFF)
  endif()
endif()
message(STATUS "CUDA kernels: ${REPRISE_CUDA}")

if(REPRISE_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES OFF)  # CMake 3.25 knows no 90a
  enable_language(CUDA)
  # Nor C++20 of this nvcc.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  # Kernels as compute-sanitizer's racecheck can follow them, see kernels/cuda/async.cuh.
  if(REPRISE_RACECHECK)
    add_compile_definitions(REPRISE_RACECHECK)
  endif()
  # -fmad=false: as -ffp-contract=off, one rounding only where the source says fmaf.
  add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:-gencode=arch=compute_90a,code=sm_90a;-fmad=false;-lineinfo;-Xcompiler=-Wall,-Wextra,-Wno-unused-parameter;-diag-suppress=20012,2810;--expt-relaxed-constexpr>")
endif()
