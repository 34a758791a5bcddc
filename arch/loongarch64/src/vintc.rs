//! A guest's interrupt chips: IPI, EIOINTC, PCH-PIC and MSI.
