//! FPU, LSX, LASX and LBT state behind `EUEN`.
